"""The run folder: opened without writing over another run, its manifest kept true after every stage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunelift import __version__
from tunelift.config.load import default_output, dump, load_config
from tunelift.config.schema import Config
from tunelift.core import files, provenance
from tunelift.core.errors import InputError
from tunelift.core.records import FORMAT

MANIFEST = "manifest.json"


class RunFolder:
    """One run's files. `manifest` is written whole after each change."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, config: Config) -> RunFolder:
        """Make the folder, or take up the one that this very config has begun.

        Raises InputError where the folder holds another run (naming the keys that differ) or other files.
        """
        path = Path(config.output) if config.output else default_output(config)
        if (path / MANIFEST).is_file():
            _refuse_another_run(path, config)
            return cls(path, files.read_json(path / MANIFEST))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"{path} exists and is no run folder of ours.",
                fix="Name another folder with output; nothing was written.",
            )
        files.write_text(path / "config.yaml", dump(config))
        folder = cls(path, {"format": FORMAT})
        folder.note(
            status="running", tunelift=__version__, command=provenance.command_line(), started=_now(), seconds={},
            versions=provenance.versions(), machine=provenance.machine(), commit=provenance.git_commit(),
            seeds={"data": config.data.seed, "train": config.train.seed},
        )  # fmt: skip
        return folder

    @property
    def complete(self) -> bool:
        """Return whether the run ended well."""
        return self.manifest.get("status") == "complete"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        files.write_json(self.path / MANIFEST, self.manifest)

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        self.note(seconds={**self.manifest.get("seconds", {}), stage: round(seconds, 2)})

    def finish(self) -> None:
        """Note that the run ended well, and how long its stages took together."""
        seconds = {k: v for k, v in self.manifest["seconds"].items() if k != "total"}
        self.note(status="complete", seconds=seconds | {"total": round(sum(seconds.values()), 2)})


def free_folder(path: Path) -> Path:
    """Return `path`, or with a number behind it the first that does not exist yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())


def _refuse_another_run(path: Path, config: Config) -> None:
    before = load_config(path / "config.yaml").model_dump(exclude={"output"})
    # Through the same text, so that objects given in Python compare as they were written down.
    now = _through_text(config).model_dump(exclude={"output"})
    differing = [
        f"{section}.{key}"
        for section in now
        if isinstance(now[section], dict)
        for key in sorted(now[section].keys() | before[section].keys())
        if now[section].get(key) != before[section].get(key)
    ]
    differing += [key for key in now if not isinstance(now[key], dict) and now[key] != before[key]]
    if differing:
        raise InputError(
            f"{path} holds another run: {', '.join(differing)} differ.",
            fix="Name another folder with output, or remove that one; nothing was written.",
        )


def _through_text(config: Config) -> Config:
    import yaml

    from tunelift.config.load import build
    from tunelift.config.settings import flatten

    return build(flatten(yaml.safe_load(dump(config))))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
