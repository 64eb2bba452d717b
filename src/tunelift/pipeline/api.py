"""The Python functions: stock transformers and peft objects in and out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.adapters.build import carries_layers, is_adapted
from tunelift.adapters.methods import Method, method_of
from tunelift.comparison import Comparison
from tunelift.config.keywords import from_keywords
from tunelift.config.load import load_config
from tunelift.config.schema import Config, EvaluateSection, ModelSection, TrainSection
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.data.splits import Splits, load_splits
from tunelift.model_facts.anatomy import base_of
from tunelift.models import task_of
from tunelift.pipeline import choices
from tunelift.pipeline.folder import locked, refuse_to_write_over
from tunelift.pipeline.generating import answered
from tunelift.pipeline.planning import plan as plan_config
from tunelift.pipeline.proofs import ProofFailed, likelihoods, prove, rows_to_prove_on
from tunelift.pipeline.replaying import check_replay, mixed, replayed
from tunelift.pipeline.run import run as run_config
from tunelift.pipeline.session import Session, head_labels
from tunelift.pipeline.tuning import put_on as put_on_with_reference
from tunelift.pipeline.tuning import train_in
from tunelift.planning.plan import RunPlan
from tunelift.run_files.layout import RunPaths
from tunelift.tasks import DEFAULT, TASKS, Task
from tunelift.training import ranks
from tunelift.training.run import train
from tunelift.training.state import check_memory


def load(
    name: str,
    *,
    adapter: str | Path | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
    **settings: Any,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, transformers' own classes; with `adapter`, peft's own model around it.

    `name` is a Hub id, a folder, a .gguf file or a bundled name; `settings` are revision, dtype and device. `labels`
    name the classes or outputs of a head, in their order. `task` is the adapter's where it is not given, or
    "causal-lm". Raises InputError for a model or an adapter that cannot be loaded.
    """
    facts = choices.adapter_facts(adapter) if adapter else {}
    kind = TASKS.get(task or facts.get("task") or DEFAULT.name)
    labels = labels or facts.get("labels", [])
    session = Session.open(ModelSection(name=name, **settings), kind, labels, ordered=bool(adapter))
    if adapter:
        session.load_adapter(adapter)
    return session.model, session.tokenizer


def evaluate(model: Any, tokenizer: Any, data: Any, *, task: str | None = None, **settings: Any) -> Scores:
    """Measure a model as it is, an adapter included if one is on, on every row of `data`.

    `data` is a path, a list of rows, a `datasets.Dataset`, or the mapping of the config's data section (its `test`).
    Other keywords are the config's keys: `prompt`, `completion`, `metrics`, `max_new_tokens`, ... Returns the scores,
    one row per item. Raises InputError for data or settings that do not fit.
    """
    config = from_keywords("evaluate", data=_as_section(data, "test"), task=task, **settings)
    kind = _task(task, model)
    splits = choices.splits_to_measure(config.data, kind)
    labels = head_labels(model) if kind.has_classes else choices.ranked_labels(kind, splits, config.data)
    metrics = choices.metrics_for(config.evaluate.metrics, kind, splits.train or splits.test)
    choices.check_numbers(splits.test, metrics)
    plan = choices.evaluation_plan(config.evaluate, metrics, kind, labels, config.train.max_length)
    return Session.of(model, tokenizer, kind, labels).score(splits.test, plan, "evaluate")


def tune(
    model: Any,
    tokenizer: Any,
    data: Any,
    *,
    adapter: Any = None,
    output: str | Path | None = None,
    task: str | None = None,
    **settings: Any,
) -> Any:
    """Train an adapter and return peft's own model; with `output`, save the adapter and its events.jsonl there.

    What was cut off with an `output` goes on from its last checkpoint when the same call is made again.

    `model` is a PEFT model, which is trained in place, or a plain one, which gets `adapter`: a ready peft config, a
    mapping such as {"r": 8}, or by default LoRA on all linear layers. `data` is as for `evaluate` (its `train`);
    validation rows are taken from it. With `output` every proof of a run is made once the adapter is saved: among them
    that the file gives the scores of the model in memory, and that the base is unchanged; ProofFailed is raised where
    one fails. Without `output` there is no saved adapter and none is made. Raises InputError for data or settings that
    do not fit, and for an output folder that holds anything but this training, cut off.

    Where torch.distributed runs, its processes share the work, and the first of them writes `output`.
    """
    ready = adapter is not None and not isinstance(adapter, (Mapping, str))
    if adapter is not None and not ready:
        settings["adapter"] = adapter
    config = from_keywords("train", data=_as_section(data, "train"), task=task, **settings)
    kind = _task(task, model).with_settings(config.preferences)
    choices.check_preferences(config.preferences, kind)
    if adapter is not None and is_adapted(model):
        raise InputError("The model has an adapter already, and another is asked for.", fix="Leave one of them out.")
    if carries_layers(model):
        raise InputError(
            "The model has an adapter's layers in it, which peft put there when it was adapted before.",
            fix="Give the PEFT model that tune or get_peft_model returned, or load the model anew.",
        )
    if output:
        _refuse_to_write_over(RunPaths(output))
    splits = load_splits(config.data, reading=kind.reading, roles=("train", "validation"))
    labels = head_labels(model) if kind.has_classes else []
    session = Session.of(model, tokenizer, kind, labels)
    put_on = adapter if ready else config.adapter.model_dump()
    config = choices.settled(config, kind, _method(model, put_on))
    session.will_train(splits.train, config.train)
    check_replay(session.task, config.train)
    check_memory(session.model, session.check(put_on))
    if output:
        with locked(Path(output)):
            _tune_in(RunPaths(output), session, splits, config.train, put_on)
        return session.model
    _tune_in_memory(session, splits, config.train, config.evaluate, put_on)
    return session.model


def generate(model: Any, tokenizer: Any, prompts: str | Sequence[str], **settings: Any) -> list[dict[str, str]]:
    """Return greedy answers, one {"prompt", "base", "tuned"} per prompt; without an adapter only "base".

    Prompts are taken as they are. `settings` are max_new_tokens, stop, thinking and batch_size.
    """
    config = from_keywords("evaluate", **settings)
    rows = [{"prompt": prompt} for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    session, how = Session.of(model, tokenizer, DEFAULT), (config.evaluate, config.train.max_length)
    with session.base():
        rows = answered(session, "base", rows, *how)
    return answered(session, "tuned", rows, *how) if is_adapted(model) else rows


def run(config: str | Path | Config | None = None, **settings: Any) -> Comparison:
    """Do the whole run: measure, tune, measure again, compare, report; return the comparison.

    `config` is a YAML file or a Config; or give the config's keys as keywords: `run(model="gpt2", data="train.csv")`.
    """
    return run_config(_whole(config, settings))


def plan(
    config: str | Path | Config | None = None,
    *,
    memory: int | None = None,
    within: float | None = None,
    quick: bool = False,
    **settings: Any,
) -> RunPlan:
    """Say what `run` with the same config or keywords will take, before it begins; nothing is written.

    `print` shows the plan: bytes by part, seconds by stage, what fits, and what to change. Of the object itself `bytes`
    is the peak of resident memory, `fits` whether that is within every limit of this machine, `seconds` the time of the
    whole run (None where none was planned), `parts`, `stages` and `changes` the tables, and `to_dict()` all of it.

    `quick` leaves out the rehearsal: no model is loaded, and no time is planned. `memory` (bytes) plans for another
    machine, by shapes alone. `within` (seconds) fits epochs and test items into a time. Raises InputError as `run`
    does.
    """
    return plan_config(_whole(config, settings), memory=memory, within=within, quick=quick)


def _whole(config: str | Path | Config | None, settings: Mapping[str, Any]) -> Config:
    """Return the config of a file, of an object, or of keywords."""
    if config is None:
        return from_keywords("train", **settings)
    if settings:
        raise InputError("Give a config or keywords, not both.")
    return config if isinstance(config, Config) else load_config(config)


def _tune_in_memory(
    session: Session, splits: Splits, settings: TrainSection, evaluate: EvaluateSection, put_on: Any
) -> None:
    """Train without keeping anything on disk."""
    with session.base():
        replay = replayed(session, splits, settings, evaluate, None)
    put_on_with_reference(session, splits, settings, put_on)
    examples = {"train": splits.train, "validation": splits.validation}
    train(
        session.model,
        session.tokenizer,
        session.task,
        examples,
        settings,
        labels=session.labels,
        render=partial(mixed, session, splits, replay),
    )
    plan = choices.evaluation_plan(evaluate, [], session.task, session.labels, settings.max_length)
    session.choose_threshold(splits.validation, plan, "tuned on validation")


def _tune_in(paths: RunPaths, session: Session, splits: Splits, settings: TrainSection, put_on: Any) -> None:
    """Train with all that a tune keeps on disk, and prove what was saved."""
    if ranks.first():
        files.recover(paths.folder)
    some, max_length = rows_to_prove_on(session.task.to_prove(splits.train)), settings.max_length
    with session.base():
        before = likelihoods(session, some, max_length)
        replay = replayed(session, splits, settings, EvaluateSection(), paths.replay)
    put_on_with_reference(session, splits, settings, put_on)
    train_in(paths, session, splits, settings, EvaluateSection(), replay=replay)
    if not ranks.first():
        return
    try:
        prove(session, paths.made, some, before, max_length)
    except ProofFailed:
        shutil.rmtree(paths.checkpoints)
        raise
    shutil.rmtree(paths.checkpoints)


def _method(model: Any, adapter: Any) -> Method | None:
    """Return the method of the adapter that is on, or of a ready config; None where the keys of the config say it."""
    if is_adapted(model):
        return method_of(model.active_peft_config)
    return None if isinstance(adapter, Mapping) else method_of(adapter)


def _refuse_to_write_over(paths: RunPaths) -> None:
    """Raise InputError where a folder holds anything but what a `tune` that was cut off leaves."""
    if paths.folder.is_dir():
        found = {path for path in paths.folder.iterdir() if not path.name.endswith((files.PART, files.OLD))}
        left = {paths.events, paths.checkpoints, paths.lock, paths.made, paths.replay}
        if found <= left and (paths.checkpoints in found or paths.made not in found):
            return
    refuse_to_write_over(paths.folder)


def _as_section(data: Any, role: str) -> dict[str, Any]:
    return dict(data) if isinstance(data, Mapping) else {role: data}


def _task(name: str | None, model: Any) -> Task:
    return TASKS.get(name) if name else task_of(base_of(model))
