"""Each stage alone, as the commands call it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelift.adapters.store import adapter_hash
from tunelift.comparison import Comparison, power
from tunelift.comparison.run_folder import compare_run
from tunelift.config.load import default_output, load_config
from tunelift.config.schema import Config, DataSection
from tunelift.core import files, garbage, progress, provenance
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.data.examples import looks_like_labels
from tunelift.data.splits import Splits, load_splits
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Metric
from tunelift.model_facts.anatomy import context_length
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.pipeline.beside import forgetting_sets, measure_forgetting
from tunelift.pipeline.choices import (
    adapter_keys,
    check_required,
    evaluation_plan,
    method_name,
    metrics_for,
    ranked_labels,
    settled,
    splits_to_measure,
    task_for,
    where_from,
)
from tunelift.pipeline.folder import RunFolder, free_folder
from tunelift.pipeline.proofs import ProofFailed, likelihoods, prove, rows_to_prove_on
from tunelift.pipeline.session import Session, adapter_facts
from tunelift.reporting import write_card, write_markdown, write_report
from tunelift.run_files.layout import CARD, SCORES, RunPaths, is_scored
from tunelift.tasks import Task
from tunelift.training import ranks
from tunelift.training.checkpoint import check_space
from tunelift.training.events import EventLog
from tunelift.training.loop import Listener
from tunelift.training.run import Trained, train

ROW_BYTES, LABEL_BYTES = 700, 30
"""Of a row of scores.jsonl, beside its texts, and of one label's score: about, and rather too much."""


@ranks.joined()
def tune_stage(config: Config) -> Path:
    """Train an adapter on data.train, selecting on data.validation, and return its folder; test is never read.

    Processes that torchrun started share the work of the training, and the first of them writes the folder.
    """
    if config.train.seeds:
        raise InputError(
            "train.seeds trains several adapters, to compare them.", fix="Use tunelift run, or train.seed."
        )
    config = settled(config)
    task = task_for(config)
    splits = load_splits(config.data, reading=task.reading, roles=("train", "validation"))
    say_data(splits)
    folder = RunFolder.open(config, "tune", sources=splits.report.sources)
    if folder.complete:
        progress.note(f"{folder.path} holds this very training, complete; nothing to do.")
        return folder.adapter
    labels = ranked_labels(task, splits, config.data)
    with folder.dated():
        session = opened(folder, task, labels, labels if looks_like_labels(splits.train) else [])
        check_training(session, splits, config)
        check_room(folder, session)
        with folder.begun(**model_facts(session)):
            tune(folder, session, splits, config)
            folder.finish()
    return folder.adapter


def evaluate_stage(config: Config, adapter: str | None = None) -> Scores:
    """Measure the model, with the adapter if one is given, on data.test; the scores are written to the output folder.

    The folder is noted on standard error; an existing one is not written over.
    """
    ranks.refuse_several("tunelift evaluate")
    config, facts = with_adapter_facts(config, adapter)
    folder = Path(config.output) if config.output else free_folder(_beside(config, "scores"))
    refuse_to_write_over(folder)
    session, splits, plan = _to_measure(config, facts)
    if adapter is not None:
        session.load_adapter(adapter)
    scores = session.score(splits.test, plan, "evaluate")
    scores.save(folder)
    progress.note(f"scores: {folder / SCORES}")
    return scores


def compare_adapter(config: Config, adapter: str, required: Sequence[str] = ()) -> Comparison:
    """Measure base and tuned on data.test from one load of the base, compare them, and write both with the report.

    `required` are metrics that a gate will ask for.
    """
    ranks.refuse_several("tunelift compare")
    config, facts = with_adapter_facts(config, adapter)
    if not config.output:
        config = config.model_copy(update={"output": str(free_folder(_beside(config, "compared")))})
    session, splits, plan = _to_measure(config, facts)
    check_required(required, plan.metrics)
    notes = session.examine(adapter)
    forgetting = forgetting_sets(config, session.task)
    folder = RunFolder.open(config, "compare", sources=splits.report.sources, adapter=adapter_hash(adapter))
    if folder.complete:
        return concluded_before(folder)
    with folder.begun(**model_facts(session)):
        for note in notes:
            folder.happened("adapter", note)
        measured(folder, "base", session, splits, plan)
        measure_forgetting(folder, session, forgetting, config, "base")
        session.load_adapter(adapter)
        measured(folder, "tuned", session, splits, plan)
        measure_forgetting(folder, session, forgetting, config, "tuned")
        folder.note(adapter=session.adapter)
        return concluded(folder)


def from_run_folder(folder: str | Path) -> tuple[Config, Path]:
    """Return the config and the adapter's folder of a run; raise InputError where there is none (yet)."""
    paths = RunPaths(folder)
    if not paths.config.is_file() or not paths.adapter.is_dir():
        raise InputError(
            f"{folder} is no run folder with an adapter.", fix="Give the output folder of tunelift run or tune."
        )
    return load_config(paths.config), paths.adapter


def check_training(session: Session, splits: Splits, config: Config) -> None:
    """Raise InputError for settings and rows that no training can begin with, before anything is measured."""
    session.will_train(splits.train, config.train)
    session.check(adapter_keys(config))
    max_length = min(config.train.max_length, context_length(session.model, session.tokenizer))
    session.task.rows(splits.train, session.tokenizer, max_length, session.labels)


def check_room(folder: RunFolder, session: Session, test: Sequence[Example] = (), labels: Sequence[str] = ()) -> None:
    """Raise TuneliftError where the disk has no room for what is left of the run, before anything is measured.

    Rows of scores are guessed: the item's texts, a number for each label, and what stands around them.
    """
    keys = adapter_keys(folder.config)
    trained = 0 if folder.proved else session.bytes_to_train(keys)
    around = ROW_BYTES + sum(len(label) + LABEL_BYTES for label in labels)
    rows = sum(len(example.prompt) + 2 * len(example.completion) + around for example in test)
    seeds = max(1, len(folder.config.train.seeds))
    check_space(folder.paths.checkpoints, trained, {"adapter": seeds * trained, "scores": (1 + seeds) * rows})


def tune(folder: RunFolder, session: Session, splits: Splits, config: Config) -> None:
    """Put an adapter on, train it, save it, and prove that what was saved is what was trained.

    Of several processes the first alone does what comes after the training.
    """
    some, max_length = rows_to_prove_on(splits.train), config.train.max_length
    before = likelihoods(session, some, max_length)
    session.will_train(splits.train, config.train)
    session.attach(adapter_keys(config), config.train.seed)
    parameters = session.parameters()
    progress.note("trainable params: {trainable:,} of {total:,} ({percent:.4f}%)".format(**parameters))
    trained = train_in(folder.paths, session, splits, config, _Diary(folder))
    if not ranks.first():
        return
    folder.took("train", trained.fit.seconds)
    keys = {k: v for k, v in adapter_keys(config).items() if k != "method"}
    data = {"splits": {}, "sources": {}, **splits.report.to_dict(), "rendering": _rendering(trained.rows)}
    folder.note(
        data=data,
        adapter={"method": method_name(config), **parameters, "config": keys, **(session.adapter or {})},
        train=trained.to_dict() | {"peak_bytes": provenance.peak_bytes()},
        fast_paths=trained.fast_paths,
    )
    try:
        folder.note(proofs=prove(session, folder.adapter, some, before, max_length))
    except ProofFailed as failure:
        folder.note(proofs=failure.proofs)
        folder.remove_checkpoints()
        raise


def train_in(paths: RunPaths, session: Session, splits: Splits, config: Config, *listeners: Listener) -> Trained:
    """Train the adapter that is on, with events and checkpoints in a folder, and save it there.

    A training that was cut off goes on.
    """
    events = [EventLog(paths.events)] if ranks.first() else []
    session.conversations = any(example.conversation for example in splits.train)
    try:
        trained = train(
            session.model, session.tokenizer, session.task,
            {"train": splits.train, "validation": splits.validation}, config.train, labels=session.labels,
            listeners=[*events, *listeners], checkpoints=paths.checkpoints,
        )  # fmt: skip
    finally:
        for log in events:
            log.close()
    if ranks.first():
        session.save_adapter(paths.adapter)
    return trained


def opened(folder: RunFolder, task: Task, labels: Sequence[str], ranked: Sequence[str] = ()) -> Session:
    """Load the run's model: in the precision that the run was begun in, if it was; that is not measured again.

    `labels` are a head's classes; `ranked` those that a causal model chooses from, which its adapter's folder is to
    say. Of several processes the others take what the first one measured.
    """
    config, known = folder.config, folder.manifest
    dtype = known.get("dtype", config.model.dtype) if ranks.first() else ranks.of_first("")
    section = config.model.model_copy(update={"dtype": dtype})
    session = Session.open(section, task, class_names(task, labels), config.train.seed)
    session.dtype_reason = known.get("dtype_reason", session.dtype_reason)
    session.ranked = () if task.has_head else ranked
    if ranks.first():
        ranks.of_first(dtype_name(compute_dtype(session.model)))
    return session


def measured(folder: RunFolder, side: str, session: Session, splits: Splits, plan: Plan) -> Scores:
    """Return the scores of one side, measured now, or read where this run measured them before it was cut off."""
    path = folder.paths.side(side)
    if is_scored(path):
        return Scores.read(path)
    began = time.monotonic()
    scores = session.score(splits.test, plan, side)
    for row in scores.rows:
        if row["id"] in splits.duplicate_of:
            row["duplicate_of"] = splits.duplicate_of[row["id"]]
    scores.info["made_with"]["seed"] = folder.config.train.seed
    scores.save(path)
    folder.took(side, time.monotonic() - began)
    progress.note(f"{side}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.metrics.items()))
    return scores


@garbage.not_looked_for()
def concluded(folder: RunFolder) -> Comparison:
    """Compare what was measured, and write comparison.json, the report and the model card."""
    comparison = compare_run(folder.path, margin=folder.config.evaluate.margin)
    files.write_json(folder.paths.comparison, comparison.to_dict())
    folder.finish()
    report(folder)
    return comparison


def concluded_before(folder: RunFolder) -> Comparison:
    """Return the comparison of a run that is complete; only a report that is missing is written again."""
    progress.note(f"{folder.path} holds this very run, complete; nothing to do.")
    written_last = (folder.adapter if folder.adapter.is_dir() else folder.path) / CARD
    if not (written_last.is_file() and folder.paths.page.is_file()):
        report(folder)
    return compare_run(folder.path, margin=folder.config.evaluate.margin)


def refuse_to_write_over(folder: Path) -> None:
    """Raise InputError where a folder exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty.", fix="Name another folder with output.")


def report(folder: RunFolder) -> None:
    """Write the report, as a page and as Markdown, and the model card from the run folder's files."""
    write_report(folder.path)
    write_markdown(folder.path)
    card = write_card(folder.path)
    if folder.adapter.is_dir():
        files.write_text(folder.adapter / CARD, card.read_text(encoding="utf-8"))


def say_data(splits: Splits) -> None:
    """Tell what became of the rows."""
    for line in splits.report.lines():
        progress.note(f"data: {line}")


def say_labels(plan: Plan, splits: Splits, data: DataSection, trained: Sequence[str] = ()) -> None:
    """Tell which labels an answer is chosen from: with fewer of them accuracy is higher."""
    if measure_for(plan).ranks:
        progress.note(f"labels: {len(plan.labels)}, {where_from(splits, data, trained)}")


def say_power(metrics: Sequence[Metric], test: Sequence[Example]) -> None:
    """Tell, before anything is measured, what so many right or wrong answers can show."""
    if metrics[0].kind == "binary" and all(example.cluster is None for example in test):
        progress.note(f"power: {power.describe(len(test))}")


def model_facts(session: Session) -> dict[str, Any]:
    """Return the manifest's facts of the model."""
    identity = session.identity
    return {
        "model": {
            "name": identity.name, "kind": identity.kind, "path": identity.path, "revision": identity.commit,
            "weights_sha256": identity.weights_sha256, "note": identity.note,
        },
        "task": session.task.name,
        "dtype": dtype_name(compute_dtype(session.model)),
        "dtype_reason": session.dtype_reason,
    }  # fmt: skip


def class_names(task: Task, labels: Sequence[str]) -> Sequence[str]:
    """Return the labels where they are the classes of a head."""
    return labels if task.has_head else []


def with_adapter_facts(config: Config, adapter: str | None) -> tuple[Config, dict[str, Any]]:
    """Fill in what an adapter's folder knows: the base, where no model is named, and the task."""
    if adapter is None:
        return config, {}
    facts = adapter_facts(adapter)
    model = config.model
    if not model.name:
        model = model.model_copy(update={"name": facts["base"], "revision": model.revision or facts["revision"]})
    return config.model_copy(update={"model": model, "task": config.task or facts["task"]}), facts


def _to_measure(config: Config, facts: dict[str, Any]) -> tuple[Session, Splits, Plan]:
    """Load the test rows and the model, and plan the evaluation."""
    task = task_for(config)
    splits = splits_to_measure(config.data, task)
    say_data(splits)
    if task.has_head and facts and not (facts["labels"] or config.data.labels):
        raise InputError(
            "The adapter does not say which label each class of its head is.",
            fix="Name the labels in the head's order: --labels negative,positive",
        )
    trained = facts.get("labels") or []
    labels = class_names(task, trained) or ranked_labels(task, splits, config.data, trained)
    metrics = metrics_for(config.evaluate.metrics, task, splits.train or splits.test)
    ordered = bool(trained or config.data.labels)  # by the adapter, or by who knows its head
    session = Session.open(config.model, task, class_names(task, labels), config.train.seed, ordered=ordered)
    plan = evaluation_plan(config.evaluate, metrics, task, session.labels or labels, config.train.max_length)
    say_labels(plan, splits, config.data, trained)
    return session, splits, plan


class _Diary:
    """Writes into the manifest what went wrong in a training, and what was done about it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, event: str, **figures: Any) -> None:
        if event == "fault":
            self.folder.happened(f"step {figures['step']}: {figures['what']}", figures["done"])
        elif event == "resumed":
            self.folder.happened("training began again", f"it went on after step {figures['step']}")


def _rendering(report: Any) -> dict[str, Any]:
    names = ("rows", "truncated", "dropped", "tokens", "tokens_in_loss", "notes")
    return {name: getattr(report, name) for name in names}


def _beside(config: Config, what: str) -> Path:
    path = default_output(config)
    return path.with_name(f"{path.name}-{what}")
