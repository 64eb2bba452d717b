"""The one place that spells the paths of a run, an adapter and a checkpoint, and the versions of their formats.

Folders written by earlier versions are found by these names too.
"""

from __future__ import annotations

from pathlib import Path

FORMAT = 2
"""Of scores and their metrics, of the manifest, the events, and of comparisons.

It is raised where the same scores give other entries of comparison.json, or an entry means something else. Folders of
every earlier one are read; tests/formats holds one of each. 1: before the unconditional exact test.
"""

LINEAGE_FORMAT = 1
CHECKPOINT_FORMAT = 1
STORED_FORMAT = 1

SCORES, METRICS = "scores.jsonl", "metrics.json"
"""What was measured on one set of items: a line for each, and how the lines were made."""

BASE, TUNED = "base", "tuned"
"""The two sides, each a folder of scores."""

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Peft's own files in an adapter's folder."""

LINEAGE = "tunelift.json"
"""Our own file beside them, since peft warns about keys it does not know."""

CARD = "README.md"
"""The model card, of a run and of its adapter."""

MANIFEST = "manifest.json"
"""Of a run: its facts. Of a checkpoint: what its files must be."""

CHECKPOINT_TENSORS, CHECKPOINT_STATE, CHECKPOINT_STEP = "tensors.safetensors", "state.json", "step-"
"""A checkpoint's two files, and how the name of its folder begins."""


class RunPaths:
    """Where everything lies in a run's folder; nothing need be there.

    `forgetting/NAME` has two sides as well, and `seeds/SEED` is a run of its own: both are RunPaths again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.config = folder / "config.yaml"
        self.manifest = folder / MANIFEST
        self.events = folder / "events.jsonl"
        self.replay = folder / "replay.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.lock = folder / ".lock"
        self.adapter, self.model = folder / "adapter", folder / "model"
        self.base, self.tuned = folder / BASE, folder / TUNED
        self.wide = folder / "full_precision"  # the base of a quantised one
        self.comparison, self.judged = folder / "comparison.json", folder / "judged.json"
        self.page, self.markdown, self.card = folder / "report.html", folder / "report.md", folder / CARD
        self._baselines, self._forgetting, self._seeds = folder / "baselines", folder / "forgetting", folder / "seeds"

    @property
    def made(self) -> Path:
        """Return what the training made: `model` where all weights were trained, else `adapter`; it may be missing."""
        return self.model if self.model.is_dir() else self.adapter

    def side(self, name: str) -> Path:
        """Return the scores of BASE or TUNED."""
        return self.folder / name

    def baseline(self, name: str) -> Path:
        """Return the scores of a baseline; the base is one too."""
        return self.base if name == BASE else self._baselines / name

    def forgetting(self, name: str) -> RunPaths:
        """Return both sides of a set that tuning should not change."""
        return RunPaths(self._forgetting / name)

    def seed(self, seed: int) -> RunPaths:
        """Return the run of a further seed."""
        return RunPaths(self._seeds / str(seed))

    def baselines(self) -> list[Path]:
        """Return the scores of the baselines that were measured, by name."""
        return [path for path in sorted(self._baselines.glob("*")) if is_scored(path)]

    def forgotten(self) -> list[RunPaths]:
        """Return the sets of which both sides were measured, by name."""
        sets = [RunPaths(path) for path in sorted(self._forgetting.glob("*"))]
        return [one for one in sets if is_scored(one.base) and is_scored(one.tuned)]

    def seeds(self) -> list[RunPaths]:
        """Return the runs of further seeds that were measured, by number."""
        named = [path for path in self._seeds.glob("*") if path.name.removeprefix("-").isdigit()]
        runs = [RunPaths(path) for path in sorted(named, key=lambda path: int(path.name))]
        return [run for run in runs if is_scored(run.tuned)]


class SweepPaths:
    """Where everything lies in a sweep's folder: a run folder for each candidate, and one for the chosen."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.summary, self.trials = self.folder / "sweep.json", self.folder / "trials.json"
        self.chosen = self.folder / "chosen"
        self._candidates = self.folder / "candidates"

    def is_ours(self, path: Path) -> bool:
        """Tell whether a path directly in the folder is a sweep's, by its name."""
        ours = (self.summary, self.trials, self.chosen, self._candidates, RunPaths(self.folder).lock)
        return path in ours

    @property
    def trained(self) -> list[RunPaths]:
        """Return the folders of trainings that were begun by a config beside them."""
        ending = RunPaths(self.folder).config.suffix
        asked = [path for path in sorted(self._candidates.glob("*")) if path.suffix == ending]
        return [run for path in asked if (run := RunPaths(path.parent / path.stem)).folder.is_dir()]

    def candidate(self, name: str) -> RunPaths:
        """Return the folder of one candidate's training."""
        return RunPaths(self._candidates / name)

    def asked(self, name: str) -> Path:
        """Return the config that a candidate is trained by."""
        return self._candidates / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """Return what a candidate's training said."""
        return self._candidates / f"{name}.log"


class LeaderboardPaths:
    """Where everything lies in the folder of a leaderboard of a config: trainings by round, and a run per finalist."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config = self.folder / "leaderboard.yaml"
        self.lengths = self.folder / "lengths.json"
        self.summary = self.folder / "leaderboard.json"
        self.markdown, self.figure = self.folder / "leaderboard.md", self.folder / "leaderboard.svg"

    def run(self, part: str, name: str) -> RunPaths:
        """Return the folder of one training or run; `part` is "pilot", "round-0", ... or "finalists"."""
        return RunPaths(self.folder / part / name)

    def asked(self, part: str, name: str) -> Path:
        """Return the config that it is made by."""
        return self.folder / part / f"{name}.yaml"

    def log(self, part: str, name: str) -> Path:
        """Return what it said."""
        return self.folder / part / f"{name}.log"

    def chosen(self, name: str) -> Path:
        """Return the file that says from which training a finalist's run goes on."""
        return self.folder / "finalists" / f"{name}.chosen.json"


def stored_list(run: Path) -> Path:
    """Return the list of a run's files, beside its folder; it lies at an address that runs are kept at."""
    return run.with_name(f"{run.name}.stored.json")


def validation_of(scores: Path) -> Path:
    """Return the scores on the rows that the strongest baseline is chosen by, beside those on the test's."""
    return scores / "validation"


def calibration_of(scores: Path) -> Path:
    """Return the scores of a side on the validation rows that temperature and thresholds are chosen by."""
    return scores / "calibration"


def made_in(folder: str | Path) -> str | Path:
    """Return what a run made where a folder is a run's, its adapter or its tuned model; else what was given."""
    paths = RunPaths(folder)
    is_run = paths.config.is_file() and paths.made.is_dir() and not is_adapter(paths.folder)
    return paths.made if is_run else folder


def is_scored(folder: Path) -> bool:
    """Tell whether a folder's scores are complete: METRICS is written last."""
    return (folder / METRICS).is_file()


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter, as peft tells it."""
    return (folder / ADAPTER_CONFIG).is_file()
