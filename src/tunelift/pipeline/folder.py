"""The run folder: opened without writing over another run, its manifest kept true after every stage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from tunelift.config.load import build, default_output, dump, load_config
from tunelift.config.schema import Config
from tunelift.config.settings import flatten
from tunelift.core import files, machine, provenance, stages, stopping
from tunelift.core.energy import EnergyMeter
from tunelift.core.errors import InputError
from tunelift.core.version import __version__
from tunelift.data.dates import dated
from tunelift.evaluation.baselines import LARGER
from tunelift.run_files.layout import FORMAT, RunPaths, is_scored, validation_of
from tunelift.training import ranks

OTHERS_END_SECONDS = 120
"""In which a process that works for one that was killed has ended."""
KEPT = "what was complete is kept"
NEVER_MATTERS = (
    *("train.save_every", "train.micro_batch_tokens", "evaluate.cache", "track"),
    *(f"larger_model.{name}" for name in ("key_from", "at_once", "timeout", "attempts")),
)
"""Settings that change nothing of a result but its last digits."""
MEASURED_WITH = ("train.max_length", "train.seed")
"""Settings of training that the measuring of the base depends on too: how texts are cut, how a new head is drawn."""
MAY_CHANGE = (
    *("adapter.", "train.", "forgetting."),
    *("evaluate.baselines", "evaluate.forgetting", "evaluate.margin", "evaluate.tasks"),
)
"""What may change until something is trained."""


class RunFolder:
    """One run's files. `manifest` is written whole after each change; of several processes the first alone writes."""

    def __init__(self, path: Path, config: Config, manifest: dict[str, Any]) -> None:
        self.path, self.paths, self.config, self.manifest = path, RunPaths(path), config, manifest
        self._found = self._on_disk()

    @classmethod
    def open(cls, config: Config, command: str, **inputs: Any) -> RunFolder:
        """Return the folder of this run, new or begun earlier by the same command; nothing is written yet.

        `inputs` are the hashes of what the config only names: the sources of data, and an adapter. Raises InputError
        where the folder holds another run (naming what differs) or other files. A run of which nothing was measured yet
        gives way, and until something is trained the settings of adapter and training may change.
        """
        path = Path(config.output) if config.output else default_output(config)
        paths = RunPaths(path)
        inputs = {"command": command, **inputs}
        manifest: dict[str, Any] = {"format": FORMAT, "inputs": inputs, "seconds": {}}
        if not paths.manifest.is_file():
            _refuse_other_files(paths)
            return cls(path, config, manifest)
        manifest = refuse_another_run(paths, config, inputs) or manifest
        folder = cls(path, config, manifest)
        if not folder.complete:
            with locked(path):
                pass  # said now, not when the model is loaded
        return folder

    @contextmanager
    def begun(self, **facts: Any) -> Iterator[None]:
        """Write the config and the manifest with these facts: from here on there is a run, and it is at work.

        Raises InputError where another process is at work on the folder. What ends it early is noted, and the command
        that goes on is added to the exception.
        """
        if not ranks.first():
            yield
            return
        with locked(self.path):
            if self._on_disk() != self._found:
                raise InputError(f"{self.path} was written by another run just now.", fix="Give the command again.")
            self._begin(facts)
            try:
                yield
            except (KeyboardInterrupt, Exception) as error:
                self._ended_early(error)
                raise

    def _ended_early(self, error: BaseException) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        what = "interrupted" if interrupted else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        with suppress(OSError):  # the disk may be full
            self.note(status="interrupted" if interrupted else "failed")
            self.happened(what, KEPT)
        error.add_note(f"What was complete is kept. To go on: {provenance.command_line()}")

    def _on_disk(self) -> str:
        manifest = self.paths.manifest
        return manifest.read_text(encoding="utf-8") if manifest.is_file() else ""

    def _begin(self, facts: dict[str, Any]) -> None:
        files.recover(self.path)
        files.write_text(self.paths.config, dump(self.config))
        if self.manifest.get("status") == "running":
            self.happened("the process ended without a word: killed, or power lost", KEPT)
        self.note(
            format=FORMAT,
            status="running",
            tunelift=__version__,
            command=provenance.command_line(),
            started=_now(),
            versions=provenance.versions(),
            machine=machine.described(),
            commit=provenance.git_commit(),
            seeds={"data": self.config.data.seed, "train": self.config.train.seed},
            **facts,
        )

    @contextmanager
    def dated(self) -> Iterator[None]:
        """Hold the date that chat templates write: that of the run's beginning, whenever it goes on."""
        began = self.manifest.setdefault("date", datetime.now().isoformat(timespec="seconds"))
        with dated(datetime.fromisoformat(began)):
            yield

    @property
    def complete(self) -> bool:
        """Return whether the run ended well."""
        return self.manifest.get("status") == "complete"

    @property
    def proved(self) -> bool:
        """Return whether an adapter was trained and every proof of it passed."""
        proofs = self.manifest.get("proofs") or []
        return bool(proofs) and all(proof["passed"] for proof in proofs)

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest.update(facts)
        if ranks.first():
            files.write_json(self.paths.manifest, self.manifest)

    def happened(self, what: str, done: str) -> None:
        """Add to the manifest what went wrong, when, and what was done about it."""
        line = {"time": _now(), "what": what, "done": done}
        self.note(happened=[*self.manifest.get("happened", []), line])

    def took(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage took, and say which stages were taken from other runs up to now."""
        spent = self.manifest.get("seconds", {})
        shared = {**self.manifest.get("stages", {}), **stages.told()}
        self.note(seconds={**spent, stage: round(spent.get(stage, 0.0) + seconds, 2)}, stages=shared)

    def spent(self, meter: EnergyMeter) -> None:
        """Note the energy of the run, where the machine tells."""
        joules = meter.joules()
        if joules is not None:
            self.note(energy_joules=self.manifest.get("energy_joules", 0.0) + joules)

    def finish(self) -> None:
        """Note that the run ended well, and how long its stages took together."""
        seconds = {k: v for k, v in self.manifest["seconds"].items() if k != "total"}
        self.remove_checkpoints()
        self.note(status="complete", seconds=seconds | {"total": round(sum(seconds.values()), 2)})

    def remove_checkpoints(self) -> None:
        """Remove the state of the training, when its adapter is proved or must not be relied on."""
        if ranks.first():
            shutil.rmtree(self.paths.checkpoints, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock for a while; of several ranks the first does.

    Raises InputError where another process has it. The system lets go of it when that process dies, however it does.
    A job whose worker was lost is given to another: what is left of the first may need a while to save and end.
    """
    if not ranks.first():
        yield
        return
    files.make_folder(folder)
    lock = FileLock(RunPaths(folder).lock)
    try:
        lock.acquire(timeout=OTHERS_END_SECONDS if stopping.JOB in os.environ else 0)
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by a run that is still at work.", fix="Wait for it, or name another output."
        ) from error
    try:
        yield
    finally:
        lock.release()


def free_folder(path: Path, what: str) -> Path:
    """Return the path with `what` behind its name, and a number too where such a folder exists already."""
    numbered = (path.with_name(f"{path.name}-{what}" + (f"-{number}" if number > 1 else "")) for number in count(1))
    return next(candidate for candidate in numbered if not candidate.exists())


def refuse_to_write_over(folder: Path) -> None:
    """Raise InputError where a folder exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty.", fix="Name another folder with output.")


def refuse_another_run(paths: RunPaths, config: Config, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the run that a folder holds; None where nothing was measured there yet.

    Raises InputError, naming what differs, where it is the run of another config or of other inputs than these.
    """
    if not any(path.exists() for path in (paths.base, paths.tuned, paths.made, paths.checkpoints)):
        return None
    manifest = files.read_manifest(paths.manifest)
    before = load_config(paths.config, of_run=True).model_dump(exclude={"output"})
    # Through the same text, so that objects given in Python compare as they were written down.
    now = build(flatten(yaml.safe_load(dump(config)))).model_dump(exclude={"output"})
    differing = _differing(before, now) + _differing(manifest.get("inputs", {}), inputs)
    differing = [key for key in differing if key not in NEVER_MATTERS]
    if "train" not in manifest and not paths.checkpoints.exists():
        differing = [key for key in differing if not key.startswith(MAY_CHANGE) or key in MEASURED_WITH]
    if manifest.get("status") != "complete" and not _has_asked(paths):
        differing = [key for key in differing if not key.startswith("larger_model.")]
    if differing:
        raise InputError(
            f"{paths.folder} holds another run; what differs: {', '.join(differing)}.",
            fix="Name another folder with output, or remove that one; nothing was written.",
        )
    return manifest


def _has_asked(paths: RunPaths) -> bool:
    """Tell whether a larger model was asked: until then another may be, or the same in another way."""
    scores = paths.baseline(LARGER)
    return is_scored(scores) or is_scored(validation_of(scores))


def _refuse_other_files(paths: RunPaths) -> None:
    path, ours = paths.folder, (paths.config, paths.lock)
    if path.is_dir() and all(p in ours or p.name.endswith(files.PART) for p in path.iterdir()):
        return
    if path.exists():
        raise InputError(
            f"{path} exists and is no run folder of ours.",
            fix="Name another folder with output; nothing was written.",
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
