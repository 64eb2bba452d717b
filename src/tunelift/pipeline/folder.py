"""The run folder: opened without writing over another run, its manifest kept true after every stage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunelift import __version__
from tunelift.config.load import default_output, dump, load_config
from tunelift.config.schema import Config
from tunelift.core import files, provenance
from tunelift.core.energy import EnergyMeter
from tunelift.core.errors import InputError
from tunelift.core.records import FORMAT

MANIFEST = "manifest.json"
RESULTS = ("base", "tuned", "adapter")
MEASURED_WITH = ("train.max_length", "train.seed")
"""Settings of training that the measuring of the base depends on too: how texts are cut, how a new head is drawn."""
MAY_CHANGE = ("adapter.", "train.", "evaluate.baselines", "evaluate.forgetting", "evaluate.margin", "forgetting.")
"""What may change until something is trained."""


class RunFolder:
    """One run's files. `manifest` is written whole after each change."""

    def __init__(self, path: Path, config: Config, manifest: dict[str, Any]) -> None:
        self.path, self.config, self.manifest = path, config, manifest

    @classmethod
    def open(cls, config: Config, command: str, **inputs: Any) -> RunFolder:
        """Return the folder of this run, new or begun earlier by the same command; nothing is written yet.

        `inputs` are the hashes of what the config only names: the sources of data, and an adapter. Raises InputError
        where the folder holds another run (naming what differs) or other files. A run of which nothing was measured yet
        gives way, and until something is trained the settings of adapter and training may change.
        """
        path = Path(config.output) if config.output else default_output(config)
        inputs = {"command": command, **inputs}
        if (path / MANIFEST).is_file():
            manifest = files.read_json(path / MANIFEST)
            if any((path / name).exists() for name in RESULTS):
                _refuse_another_run(path, manifest, config, inputs)
                return cls(path, config, manifest)
        elif path.exists() and (not path.is_dir() or {p.name for p in path.iterdir()} - {"config.yaml"}):
            raise InputError(
                f"{path} exists and is no run folder of ours.",
                fix="Name another folder with output; nothing was written.",
            )
        return cls(path, config, {"format": FORMAT, "inputs": inputs, "seconds": {}})

    def begin(self) -> None:
        """Write the config and the manifest: from here on there is a run."""
        files.write_text(self.path / "config.yaml", dump(self.config))
        self.note(
            status="running",
            tunelift=__version__,
            command=provenance.command_line(),
            started=_now(),
            versions=provenance.versions(),
            machine=provenance.machine(),
            commit=provenance.git_commit(),
            seeds={"data": self.config.data.seed, "train": self.config.train.seed},
        )

    @property
    def complete(self) -> bool:
        """Return whether the run ended well."""
        return self.manifest.get("status") == "complete"

    @property
    def proved(self) -> bool:
        """Return whether an adapter was trained and every proof of it passed."""
        proofs = self.manifest.get("proofs") or []
        return bool(proofs) and all(proof["passed"] for proof in proofs)

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        files.write_json(self.path / MANIFEST, self.manifest)

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage took."""
        spent = self.manifest.get("seconds", {})
        self.note(seconds={**spent, stage: round(spent.get(stage, 0.0) + seconds, 2)})

    def spent(self, meter: EnergyMeter) -> None:
        """Note the energy of the run, where the machine tells."""
        joules = meter.joules()
        if joules is not None:
            self.note(energy_joules=self.manifest.get("energy_joules", 0.0) + joules)

    def finish(self) -> None:
        """Note that the run ended well, and how long its stages took together."""
        seconds = {k: v for k, v in self.manifest["seconds"].items() if k != "total"}
        self.note(status="complete", seconds=seconds | {"total": round(sum(seconds.values()), 2)})


def free_folder(path: Path) -> Path:
    """Return `path`, or with a number behind it the first that does not exist yet."""
    candidates = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(candidate for candidate in candidates if not candidate.exists())


def _refuse_another_run(path: Path, manifest: dict[str, Any], config: Config, inputs: dict[str, Any]) -> None:
    before = load_config(path / "config.yaml").model_dump(exclude={"output"})
    # Through the same text, so that objects given in Python compare as they were written down.
    now = _through_text(config).model_dump(exclude={"output"})
    differing = _differing(before, now) + _differing(manifest.get("inputs", {}), inputs)
    if "train" not in manifest:
        differing = [key for key in differing if not key.startswith(MAY_CHANGE) or key in MEASURED_WITH]
    if differing:
        raise InputError(
            f"{path} holds another run; what differs: {', '.join(differing)}.",
            fix="Name another folder with output, or remove that one; nothing was written.",
        )


def _differing(before: dict[str, Any], now: dict[str, Any], inside: str = "") -> list[str]:
    """Return the dotted names of what differs."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differing(old, new, f"{inside}{key}.")
        elif old != new:
            found.append(inside + key)
    return found


def _through_text(config: Config) -> Config:
    import yaml

    from tunelift.config.load import build
    from tunelift.config.settings import flatten

    return build(flatten(yaml.safe_load(dump(config))))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
