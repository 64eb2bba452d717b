"""Trackers: what happens in a training, and the verdict with its interval, told to a program that shows many runs.

Each is an extra and a listener of the loop. Nothing leaves the machine unless the user's own settings of the library
say so: MLflow and Trackio write where they always do (MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID), Weights & Biases stays
offline unless WANDB_MODE says otherwise, TensorBoard's files lie in the run folder. A tracker that fails is noted and
told no more: it is no reason to lose the run.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import yaml

from tunelift.config.load import dump
from tunelift.config.schema import Config
from tunelift.config.settings import flatten
from tunelift.core import files, progress
from tunelift.core.errors import InputError

PROJECT = "tunelift"
OF_STEP = ("loss", "learning_rate", "tokens_per_second", "gradient_norm")
"""Figures of a step that are tracked."""

Facts = Mapping[str, Any]


class Tracker(Protocol):
    """One library: told figures by name, at a step or of the whole run, and texts of the whole run."""

    def figures(self, values: Mapping[str, float], step: int | None) -> None: ...
    def texts(self, values: Mapping[str, str]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What a tracker is told of a run: its folder, and its settings by dotted names; `known` is its id from before."""

    folder: Path
    settings: Facts
    known: str | None

    @property
    def name(self) -> str:
        """Its folder, with the one above it: candidates of a sweep have names of their own."""
        return "/".join(self.folder.resolve().parts[-2:])


class _TensorBoard:
    """Event files below the run folder, as torch writes them."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = "tensorboard"
        self.writer: Any = SummaryWriter(str(run.folder / "tensorboard"))
        if run.known is None:
            rows = "\n".join(f"| {name} | {value} |" for name, value in run.settings.items())
            self.writer.add_text("settings", f"| key | value |\n|---|---|\n{rows}")

    def figures(self, values: Mapping[str, float], step: int | None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step or 0)

    def texts(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.writer.add_text(name, value)

    def close(self) -> None:
        self.writer.close()


class _MLflow:
    """A run of MLflow, by its client alone: a run of the user's that is active stays so."""

    def __init__(self, run: Run) -> None:
        from mlflow import MlflowClient

        self.client: Any = MlflowClient()
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        self.id = run.known or self.client.create_run(experiment, run_name=run.name).info.run_id
        if run.known is None:
            for name, value in run.settings.items():
                self.client.log_param(self.id, name, str(value)[:500])

    def figures(self, values: Mapping[str, float], step: int | None) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step or 0)

    def texts(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.client.set_tag(self.id, name, value)

    def close(self) -> None:
        self.client.set_terminated(self.id)


class _Wandb:
    """A run of Weights & Biases, offline unless WANDB_MODE says otherwise; its files lie in the run folder."""

    def __init__(self, run: Run) -> None:
        import wandb

        self.id = run.known or secrets.token_hex(4)
        self.run: Any = wandb.init(
            project=PROJECT, name=run.name, id=self.id, resume="allow", dir=str(run.folder), config=dict(run.settings),
            mode=os.environ.get("WANDB_MODE", "offline"), reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip

    def figures(self, values: Mapping[str, float], step: int | None) -> None:
        if step is None:
            self.run.summary.update(dict(values))
        else:
            self.run.log(dict(values), step=step)  # a run that goes on would count from 0 again

    def texts(self, values: Mapping[str, str]) -> None:
        self.run.summary.update(dict(values))

    def close(self) -> None:
        self.run.finish()


class _Trackio:
    """A run of Trackio, in its own folder on this machine unless TRACKIO_SPACE_ID names a Space."""

    def __init__(self, run: Run) -> None:
        import trackio

        self.id = run.known or run.name
        settings = {
            name: value if isinstance(value, int | float) else str(value) for name, value in run.settings.items()
        }
        self.run: Any = trackio.init(
            project=PROJECT, name=self.id, config=settings, resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def figures(self, values: Mapping[str, float], step: int | None) -> None:
        self.run.log(dict(values), step=step)

    def texts(self, values: Mapping[str, str]) -> None:
        self.run.log(dict(values))

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, tuple[str, Callable[[Run], Any]]] = {
    "tensorboard": ("tensorboard", _TensorBoard),
    "mlflow": ("mlflow", _MLflow),
    "wandb": ("wandb", _Wandb),
    "trackio": ("trackio", _Trackio),
}
"""By the name that `track` has it: the package, and what makes a tracker of a run."""


def refuse_missing(names: Sequence[str]) -> None:
    """Raise InputError for trackers whose package is not installed, before anything is computed."""
    for name in names:
        package, _ = TRACKERS[name]
        if find_spec(package) is None:
            raise InputError(
                f"track names {name}, and {package} is not installed.", fix=f"pip install 'tunelift[{name}]'"
            )


@dataclass(slots=True)
class Tracked:
    """The trackers of one run, as one listener of the loop."""

    trackers: dict[str, Any] = field(default_factory=dict)

    def __call__(self, event: str, **figures: Any) -> None:
        if event == "train":
            values = {f"train/{name}": figures[name] for name in OF_STEP if name in figures}
        elif event == "validation":
            values = {"validation/loss": figures["loss"]}
        else:
            return
        self.tell(values, figures["step"])

    def tell(self, values: Mapping[str, float | None], step: int | None = None) -> None:
        """Tell figures; those that are none, or not finite, are left out."""
        known = {name: float(v) for name, v in values.items() if v is not None and math.isfinite(v)}
        self.each(lambda tracker: tracker.figures(known, step))

    def each(self, do: Callable[[Tracker], None]) -> None:
        """Do something with each; one that fails is said so of, and left out from then on."""
        for name, tracker in list(self.trackers.items()):
            try:
                do(tracker)
            except Exception as error:  # whatever a library or its server has
                progress.note(f"track: {name} fails and is told no more: {type(error).__name__}: {str(error)[:200]}")
                del self.trackers[name]


@contextmanager
def tracked(folder: Path, names: Sequence[str], settings: Facts) -> Iterator[Tracked]:
    """Yield the trackers of a run for a while; a later call for the same folder goes on with the runs they began."""
    tracked, kept = Tracked(), folder / "tracking.json"
    known = files.read_object(kept) if names else {}
    for name in names:
        try:
            tracked.trackers[name] = TRACKERS[name][1](Run(folder, settings, known.get(name)))
            known[name] = tracked.trackers[name].id
        except Exception as error:  # whatever a library or its server has
            progress.note(f"track: {name} cannot begin: {type(error).__name__}: {str(error)[:200]}")
    if tracked.trackers:
        files.write_json(kept, known)
    try:
        yield tracked
    finally:
        tracked.each(lambda tracker: tracker.close())


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings of a run by dotted names, as plain values."""
    return {setting.name: setting.value for setting in flatten(yaml.safe_load(dump(config)))}


def tell_verdict(folder: Path, names: Sequence[str], settings: Facts, comparison: Facts) -> None:
    """Tell the trackers of a run its verdict: each metric's values, difference and interval, and the sentence."""
    if not names:
        return
    values: dict[str, float | None] = {}
    for name, entry in comparison["metrics"].items():
        values |= {f"{name}/{key}": entry[key] for key in ("base", "tuned", "difference")}
        values |= dict(zip((f"{name}/interval_low", f"{name}/interval_high"), entry["interval"] or (), strict=False))
    headline = comparison["headline"]
    texts = {"verdict": headline["verdict"], "verdict_sentence": headline["sentence"], "against": headline["against"]}
    judged = comparison["baselines"].get(headline["against"]) or comparison["metrics"][headline["metric"]]
    low_high = zip(("verdict/interval_low", "verdict/interval_high"), judged["interval"] or (), strict=False)
    values |= {"verdict/difference": judged["difference"], **dict(low_high)}
    with tracked(folder, names, settings) as told:
        told.tell(values)
        told.each(partial(_say, texts))


def _say(texts: Mapping[str, str], tracker: Tracker) -> None:
    tracker.texts(texts)
