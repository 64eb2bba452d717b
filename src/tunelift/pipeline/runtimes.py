"""What other programs take of each PEFT method: each put on a tiny model, asked about and merged."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunelift.adapters.methods import METHODS
from tunelift.config.schema import ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.exporting.gguf_lora import check_lora
from tunelift.exporting.gguf_weights import Layout
from tunelift.exporting.lora_factors import check_plain
from tunelift.exporting.merging import check_merges
from tunelift.exporting.to_mlx import MERGED, tensors
from tunelift.model_facts.anatomy import base_of
from tunelift.models import sources, twin
from tunelift.models.loader import read_config
from tunelift.pipeline.trying import OnTwin, loads_with_peft, merges
from tunelift.tasks import DEFAULT, TASKS, Task


@dataclass(frozen=True)
class Way:
    """One way into a program: what `tunelift export` calls it, "adapter" where the run's own folder is read, and what
    it asks of the model with the adapter on. `alone` says that the adapter stays one."""

    to: str
    check: Callable[[Any], None]
    alone: bool = False


@dataclass(frozen=True)
class Runtime:
    """A program with the package that it is in, what its tasks are, and the model type that methods are tried with."""

    package: str
    does: Callable[[Task], bool]
    model_type: str
    ways: tuple[Way, ...]


def _continues(task: Task) -> bool:
    return task.name == DEFAULT.name


def _classifies(task: Task) -> bool:
    return task.has_classes and task.by_class and task.auto_class == "AutoModelForSequenceClassification"


def _embeds(task: Task) -> bool:
    return task.reads_states


def _nothing(model: Any) -> None:
    """Ask nothing: whether it can be is seen."""


def _no_virtual_tokens(model: Any) -> None:
    config = model.peft_config[model.active_adapter]
    if getattr(config, "num_virtual_tokens", None):
        raise InputError("It has virtual tokens, and the library loads none.")


def _layout(model: Any) -> None:
    Layout.of(base_of(model).config)
    check_merges(model)


def _mlx(model: Any) -> None:
    check_plain(model, "mlx-lm", MERGED, dora=True)
    tensors(model)


RUNTIMES = {
    "transformers": Runtime(
        "transformers", _continues, "llama", (Way("adapter", _nothing, alone=True), Way("merged", check_merges))
    ),
    "llama.cpp": Runtime(
        "xllamacpp", _continues, "llama", (Way("lora-gguf", check_lora, alone=True), Way("gguf", _layout))
    ),
    "mlx": Runtime("mlx-lm", _continues, "llama", (Way("mlx", _mlx, alone=True), Way("merged", check_merges))),
    "onnx": Runtime("onnxruntime", _classifies, "bert", (Way("onnx", check_merges),)),
    "sentence-transformers": Runtime(
        "sentence-transformers",
        _embeds,
        "bert",
        (Way("adapter", _no_virtual_tokens, alone=True), Way("sentence-transformers", check_merges)),
    ),
}


def taken(runtime: str, names: Sequence[str] = (), model: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """Try methods, all of them or those named, for a program; return what it takes of each, and a sentence about it.

    Each is {"method", "takes": {way: "yes" or the reason why not}, "instead"}. The tiny model is of the architecture of
    `model`, or of a usual one. Raises InputError for a program that is not known here, and a model whose task is
    another than what the program is tried with.
    """
    if runtime not in RUNTIMES:
        raise InputError(f'"{runtime}" is no program that is exported to.', fix=f"Known: {listed(RUNTIMES)}.")
    known = RUNTIMES[runtime]
    task = next(one for one in map(TASKS.get, TASKS) if known.does(one))
    config = read_config(*sources.resolve(ModelSection(name=model).name)) if model else _usual(known.model_type)
    if not task.fits(config):
        raise InputError(f"{model} does no {task.name}, for which {runtime} is tried.", fix="Name another model.")
    labels = sorted(task.labels_in(task.made_up())) if task.has_head else []
    base, tokenizer = twin.twin(config, task, labels)
    found = []
    chosen = list(names) or [name for name in METHODS if METHODS.get(name).peft_type]
    with progress.bar("methods", len(chosen)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft says of the twins
        for name in chosen:
            with tempfile.TemporaryDirectory() as scratch, progress.silenced():
                found.append(_taken(known, OnTwin(name, Path(scratch), base, tokenizer, task, labels)))
            advance(1, note=name)
    about = f"Tried on a tiny {config.model_type} for the task {task.name}, in float32 on a CPU ({_versions(known)})."
    return found, about


def _usual(model_type: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type)


def _versions(known: Runtime) -> str:
    packages = dict.fromkeys(("peft", "transformers", known.package))
    said = []
    for name in packages:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            said.append(f"without {name}, which is not installed")
    return ", ".join(said)


def _taken(known: Runtime, trial: OnTwin) -> dict[str, Any]:
    try:
        if trial.method.whole:
            raise InputError("All weights are trained: there is no adapter, and the model is exported as it is.")
        trial.session().check(trial.keys)
        says = {way.to: _says(way, trial) for way in known.ways}
    except InputError as error:
        says = {way.to: error.problems[0] for way in known.ways}
    merged = [way.to for way in known.ways if not way.alone and says[way.to] == YES]
    alone = [way for way in known.ways if way.alone and says[way.to] != YES]
    return {"method": trial.name, "takes": says, "instead": f"--to {merged[0]}" if merged and alone else ""}


YES = "yes"


def _says(way: Way, trial: OnTwin) -> str:
    try:
        way.check(trial.tuned.model)
    except InputError as error:
        return error.problems[0]
    try:
        right = loads_with_peft(trial) if way.alone and way.to == "adapter" else way.alone or merges(trial)
    except Exception as error:  # whatever peft makes of it
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return YES if right else "it gives something else there"


def as_rows(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of a table, the head first: reasons stand once, behind the columns of yes and no."""
    ways = list(found[0]["takes"]) if found else []
    rows = [["method", *ways, "instead", "why not"]]
    for one in found:
        reasons = dict.fromkeys(reason for reason in one["takes"].values() if reason != YES)
        marks = [YES if one["takes"][way] == YES else "no" for way in ways]
        rows.append([one["method"], *marks, one["instead"], " ".join(reasons)])
    return rows
