"""Each stage alone, as the commands call it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison import Comparison
from tunelift.config.load import default_output, load_config
from tunelift.config.schema import Config, ModelSection
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.data.examples import looks_like_labels
from tunelift.data.splits import ROLES, Splits, load_splits
from tunelift.evaluation.plan import Plan
from tunelift.pipeline import choices
from tunelift.pipeline.calibrating import measure_validation
from tunelift.pipeline.concluding import concluded
from tunelift.pipeline.folder import RunFolder, free_folder, refuse_to_write_over
from tunelift.pipeline.forgetting import forgetting_sets, measure_forgetting
from tunelift.pipeline.measuring import measured
from tunelift.pipeline.planning import before_loading, before_measuring
from tunelift.pipeline.preparing import Prepared
from tunelift.pipeline.quantising import measure_full_precision
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import tells_its_stages
from tunelift.pipeline.tuning import check_training, tune
from tunelift.pipeline.whole import tuned_hash
from tunelift.run_files.layout import SCORES, RunPaths, made_in
from tunelift.training import ranks


@ranks.joined()
@tells_its_stages
def tune_stage(config: Config, *, anyway: bool = False, beside_test: bool = False) -> Path:
    """Train an adapter on data.train, selecting on data.validation, and return its folder; test is never read.

    Processes that torchrun started share the work of the training, and the first of them writes the folder. `anyway`
    begins what memory does not suffice for; without it InputError is raised before the model is loaded. With
    `beside_test` the rows are those that `run` trains on, where a run takes this training over: the test is read, to
    leave out what stands in it too.
    """
    if config.train.seeds:
        raise InputError(
            "train.seeds trains several adapters, to compare them.", fix="Use tunelift run, or train.seed."
        )
    task = choices.task_for(config)
    config = choices.settled(config, task)
    roles = ROLES if beside_test else ("train", "validation")
    splits = load_splits(config.data, reading=task.reading, roles=roles)
    choices.say_data(splits)
    folder = RunFolder.open(config, "tune", sources=splits.report.sources)
    if folder.complete:
        progress.note(f"{folder.path} holds this very training, complete; nothing to do.")
        return folder.paths.made
    labels = choices.ranked_labels(task, splits, config.data)
    plan = choices.evaluation_plan(config.evaluate, [], task, labels, config.train.max_length)
    ready = Prepared(config, task, splits, plan, labels, {})
    before = before_loading(ready, anyway=anyway)
    with folder.dated():
        session = Session.of_run(folder, task, labels, labels if looks_like_labels(splits.train) else [])
        footprint = check_training(folder, session, splits, config.train, config.adapter, anyway=anyway)
        before_measuring(session, ready, footprint, before, anyway=anyway)
        with folder.begun(**session.facts()):
            tune(folder, session, splits, config.train, config.adapter)
            folder.finish()
    return folder.paths.made


def evaluate_stage(config: Config, adapter: str | None = None) -> Scores:
    """Measure the model, with the adapter if one is given, on data.test; the scores are written to the output folder.

    The folder of a run stands for what it made. That of the scores is noted on standard error; an existing one is not
    written over.
    """
    ranks.refuse_several("tunelift evaluate")
    adapter = None if adapter is None else str(made_in(adapter))
    config, facts = choices.with_adapter_facts(config, adapter)
    folder = Path(config.output) if config.output else free_folder(default_output(config), "scores")
    refuse_to_write_over(folder)
    session, splits, plan = _to_measure(config, facts)
    if adapter is None:
        session.choose_threshold(splits.validation, plan, "base on validation")
    else:
        session.load_adapter(adapter)
    scores = session.score(splits.test, plan, "evaluate")
    scores.save(folder)
    progress.note(f"scores: {folder / SCORES}")
    return scores


@tells_its_stages
def compare_adapter(config: Config, adapter: str, required: Sequence[str] = ()) -> Comparison:
    """Measure base and tuned on data.test from one load of the base, compare them, and write both with the report.

    `required` are metrics that a gate will ask for.
    """
    ranks.refuse_several("tunelift compare")
    adapter = str(made_in(adapter))
    config, facts = choices.with_adapter_facts(config, adapter)
    if not config.output:
        config = config.model_copy(update={"output": str(free_folder(default_output(config), "compared"))})
    session, splits, plan = _to_measure(config, facts)
    choices.check_required(required, plan.metrics)
    notes = session.examine(adapter)
    sets = forgetting_sets(config.evaluate, session.task)
    sources = {"sources": splits.report.sources, "forgetting": {k: found.report.sources for k, found in sets.items()}}
    defined = choices.definitions(plan.metrics)
    folder = RunFolder.open(config, "compare", adapter=tuned_hash(adapter), **sources, **defined)
    if folder.complete:
        return concluded(folder)
    with folder.begun(**session.facts()):
        for note in notes:
            folder.happened("adapter", note)
        session.choose_threshold(splits.validation, plan, "base on validation")
        measured(folder, "base", session, splits, plan)
        measure_full_precision(folder, session, splits, plan)
        measure_validation(folder, "base", session, splits, plan, config.data.seed)
        measure_forgetting(folder, "base", session, sets, config.evaluate, plan.max_length)
        session.load_adapter(adapter)
        measured(folder, "tuned", session, splits, plan)
        measure_validation(folder, "tuned", session, splits, plan, config.data.seed)
        measure_forgetting(folder, "tuned", session, sets, config.evaluate, plan.max_length)
        folder.note(adapter={"method": choices.method_in(adapter), **(session.adapter or {})})
        return concluded(folder)


def examined_adapter(folder: str, name: str) -> Sequence[str]:
    """Return what a user should know of an adapter on a model, without measuring; raise InputError if it is refused."""
    config, facts = choices.with_adapter_facts(Config(model=ModelSection(name=name)), folder)
    labels = facts["labels"]
    return Session.open(config.model, choices.task_for(config), labels, ordered=bool(labels)).examine(folder)


def from_run_folder(folder: str | Path) -> tuple[Config, Path]:
    """Return the config of a run and the folder of what it trained; raise InputError where there is none (yet)."""
    paths = RunPaths(folder)
    if not paths.config.is_file() or not paths.made.is_dir():
        raise InputError(
            f"{folder} is no run folder with an adapter or a tuned model.",
            fix="Give the output folder of tunelift run or tune.",
        )
    return load_config(paths.config, of_run=True), paths.made


def _to_measure(config: Config, facts: dict[str, Any]) -> tuple[Session, Splits, Plan]:
    """Load the test rows and the model, and plan the evaluation."""
    task, data, trained = choices.task_for(config), config.data, facts.get("labels") or []
    splits = choices.splits_to_measure(data, task)
    choices.say_data(splits)
    if task.has_classes and facts and not (trained or data.labels):
        raise InputError(
            "The adapter does not say which label each class of its head is.",
            fix="Name the labels in the head's order: --labels negative,positive",
        )
    labels = (trained if task.has_head else []) or choices.ranked_labels(task, splits, data, trained)
    metrics = choices.metrics_for(config.evaluate.metrics, task, splits.train or splits.test)
    choices.check_numbers(splits.test, metrics)
    ordered = bool(trained or data.labels)  # by the adapter, or by who knows its head
    session = Session.open(config.model, task, labels, config.train.seed, ordered=ordered)
    plan = choices.evaluation_plan(config.evaluate, metrics, task, session.labels or labels, config.train.max_length)
    choices.say_labels(plan, splits, data, trained)
    return session, splits, plan
