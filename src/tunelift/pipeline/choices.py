"""What follows from the data, the model and the adapter where the user named nothing: task, labels, metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelift.adapters.methods import METHODS, Method, name_of, trains_whole
from tunelift.adapters.store import read_adapter_config, read_lineage
from tunelift.config.schema import (
    AdapterSection,
    Config,
    DataSection,
    EndpointSection,
    EvaluateSection,
    PreferencesSection,
)
from tunelift.core import progress
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Example, Numbers
from tunelift.data.examples import unseen_labels
from tunelift.data.splits import ROLES, Splits, load_splits
from tunelift.data.template import Template
from tunelift.evaluation.measures import measure_for, measure_of
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Metric, resolve
from tunelift.metrics.numbers import OF_SPREAD
from tunelift.models import is_model, natural_task, quantized
from tunelift.pipeline.tracking import refuse_missing
from tunelift.tasks import TASKS, Task


def task_for(config: Config) -> Task:
    """Return the task that the config names, or the one that suits the model; raise InputError for none."""
    model = config.model
    narrow = model.quantization == "gguf"
    task = TASKS.get(config.task) if config.task else natural_task(model.name, model.revision, narrow=narrow)
    return task.with_settings(config.preferences)


def metrics_for(named: Sequence[Any] | None, task: Task, examples: Sequence[Example]) -> list[Metric]:
    """Return the metrics named, or those that suit the task and the rows; raise InputError for what it cannot give."""
    metrics = resolve(list(named or task.metrics(examples)))
    measure_of(task, metrics)  # says which it cannot give
    return metrics


def check_preferences(settings: PreferencesSection, task: Task) -> None:
    """Raise InputError for settings of preference tuning where the task to be trained compares no answers."""
    given = [name for name, value in settings if value != getattr(PreferencesSection(), name)]
    if given and not task.reading.compares:
        raise InputError(
            *(f"preferences.{name} is set, and the task {task.name} learns no preferences." for name in given),
            fix="Leave it out, or name the task that does (task).",
        )


def definitions(metrics: Sequence[Metric]) -> dict[str, dict[str, str]]:
    """Return under "metrics" what those are defined by that are of a schema, a pattern or code; nothing for others."""
    found = {metric.name: metric.defined_by for metric in metrics if metric.defined_by is not None}
    return {"metrics": found} if found else {}


def label_texts(task: Task, examples: Sequence[Example], data: DataSection) -> list[str]:
    """Return the labels in order: those in the data and those that data.labels names, as the model is to write them.

    For a head, data.labels is the order of its classes, where it is given.
    """
    found = task.labels_in(examples)
    if task.has_head and data.labels:
        return [*data.labels, *sorted(found - set(data.labels))]
    found |= {_as_completion(name, found, data) for name in data.labels or []}
    return _in_order(found)


def splits_to_measure(data: DataSection, task: Task) -> Splits:
    """Return the test rows, and those of train and validation where they are named: they say which labels there are."""
    return load_splits(data, reading=task.reading, roles=ROLES if data.train is not None else ("test",))


def ranked_labels(task: Task, splits: Splits, data: DataSection, trained: Sequence[str] = ()) -> list[str]:
    """Return the labels for a model to choose from, by one rule for every command.

    They are those of all rows that were named (train, validation, test), of data.labels, and those that an adapter was
    trained on, where its folder says so. A head has its own classes: those of train and validation, where they are
    named.
    """
    learned = [*splits.train, *splits.validation]
    if task.has_head:
        return label_texts(task, learned or splits.test, data)
    found = label_texts(task, [*learned, *splits.test], data)
    return _in_order({*found, *trained})


def say_data(splits: Splits) -> None:
    """Tell what became of the rows."""
    for line in splits.report.lines():
        progress.note(f"data: {line}")


def say_labels(plan: Plan, splits: Splits, data: DataSection, trained: Sequence[str] = ()) -> None:
    """Tell which labels an answer is chosen from, and where they come from: with fewer of them accuracy is higher."""
    if not measure_for(plan).ranks or not plan.labels:  # each row may have options of its own
        return
    roles = [name for name in ("train", "validation", "test") if getattr(splits, name)]
    parts = [f"of {listed(roles)}"] if roles else []
    parts += ["of data.labels"] if data.labels else []
    parts += ["those that the adapter was trained on"] if trained else []
    alone = roles == ["test"] and not data.labels and not trained
    more = "; name data.train or data.labels where there are others" if alone else ""
    progress.note(f"labels: {len(plan.labels)}, {listed(parts)}{more}")


def _in_order(labels: set[str]) -> list[str]:
    numeric = all(re.fullmatch(r" ?-?[0-9]+", label) for label in labels)
    return sorted(labels, key=int if numeric else None)


def evaluation_plan(
    settings: EvaluateSection,
    metrics: Sequence[Metric],
    task: Task,
    labels: Sequence[str],
    max_length: int,
    larger_model: EndpointSection | None = None,
) -> Plan:
    """Return the plan of an evaluation; labels that no metric needs, and a model without an address, are left out."""
    needed = task.has_head or any(metric.needs == "label" for metric in metrics)
    return Plan(
        metrics=metrics,
        task=task,
        labels=list(labels) if needed else [],
        label_score=settings.label_score,
        max_new_tokens=settings.max_new_tokens,
        max_answer_tokens=settings.max_answer_tokens,
        stop=settings.stop,
        temperature=settings.temperature,
        thinking=settings.thinking,
        rows_at_once=settings.batch_size,
        max_length=max_length,
        slices=settings.slices,
        cache=settings.cache,
        larger_model=larger_model if larger_model and larger_model.address else None,
    )


def check_labels(
    train: Sequence[Example], test: Sequence[Example], data: DataSection, metrics: Sequence[Metric]
) -> None:
    """Raise InputError where test has labels that train lacks and that data.labels does not name."""
    if data.labels or not any(metric.needs == "label" for metric in metrics):
        return
    if unseen := unseen_labels(train, test):
        raise InputError(
            f"The test rows have labels that no training row has: {listed(repr(label) for label in unseen)}.",
            fix="Add training rows with them, take those test rows out, or name every label with data.labels.",
        )


def check_numbers(test: Sequence[Example], metrics: Sequence[Metric]) -> None:
    """Raise InputError for metrics of how numbers go together where those of the test rows are all the same."""
    names = [metric.name for metric in metrics if metric.name in OF_SPREAD]
    values = [example.wanted.values for example in test if isinstance(example.wanted, Numbers)]
    if names and len(values) > 1 and any(len(set(own)) == 1 for own in zip(*values, strict=True)):
        raise InputError(
            f"All {len(values)} test rows have the same number: {listed(names)} would be 0, whatever the model says.",
            fix="Give test rows of several numbers, or name other metrics (evaluate.metrics).",
        )


def check_larger_model(settings: EndpointSection) -> None:
    """Raise InputError for settings of a larger model where no address is named: it is not asked then."""
    usual = EndpointSection()
    given = [name for name, value in settings if value != getattr(usual, name)]
    if given and not settings.address:
        raise InputError(
            *(f"larger_model.{name} is set, and no address is named: nothing is asked." for name in given),
            fix="Name it (--address https://HOST/v1), or leave them out.",
        )


def check_required(required: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Raise InputError where a gate will ask for a metric that is not measured."""
    names = [metric.name for metric in metrics]
    if unknown := [name for name in required if name not in names]:
        raise InputError(
            *(f'A gate is about "{name}", which is not measured.{did_you_mean(name, names)}' for name in unknown),
            fix=f"Measured are: {listed(names)}; evaluate.metrics names others.",
        )


def method_name(adapter: AdapterSection) -> str:
    """Return the name of the method that is trained: the section's, or that of the adapter to go on from.

    Raises InputError where there is no such adapter.
    """
    return method_in(adapter.start_from) if adapter.start_from else adapter.method


def method_in(folder: str | Path) -> str:
    """Return the name of the method by which what a folder holds was tuned: an adapter, or a whole model.

    Of several methods of one type of peft the first is named. Raises InputError where there is neither.
    """
    if is_model(Path(folder)):
        return next(name for name in METHODS if trains_whole(name))
    peft_type = str(read_adapter_config(folder)["peft_type"])
    return name_of(peft_type) or peft_type.lower()


def settled(config: Config, task: Task, method: Method | None = None) -> Config:
    """Return the config with the method's own learning rate for a task where the user set none: it is written down so.

    The method is that of the config where none is given. Raises InputError as `method_name` does, and for a config
    that still has values to choose among.
    """
    if config.sweep:
        raise InputError(
            f"sweep names values to choose among, of {listed(config.sweep)}.", fix="Use tunelift sweep, or remove it."
        )
    refuse_missing(config.track)
    if config.leaderboard.methods:
        raise InputError("leaderboard names methods to rank.", fix="Use tunelift leaderboard, or remove it.")
    if method is None and (name := method_name(config.adapter)) in METHODS:  # others are refused later
        method = METHODS.get(name)
    rate = method.rate_for(has_head=task.has_head) if method else None
    if rate is None or "learning_rate" in config.train.model_fields_set:
        return config
    return config.trained_with(learning_rate=rate)


def adapter_facts(folder: str | Path) -> dict[str, Any]:
    """Return what an adapter's folder says of itself: base (name or path), task and labels (both may be missing).

    So does that of a model whose own weights were tuned; one that others tuned names no base.
    Raises InputError for an adapter of a task that is none of ours.
    """
    config = {} if is_model(Path(folder)) else read_adapter_config(folder)
    lineage = read_lineage(folder)
    by_class = [name for name in TASKS if TASKS.get(name).by_class]
    tasks = {TASKS.get(name).peft_type: name for name in reversed(by_class)}  # of several the first counts
    made_for = config.get("task_type")
    if made_for is not None and str(made_for) not in tasks:
        known = listed(dict.fromkeys(str(TASKS.get(name).peft_type) for name in TASKS if TASKS.get(name).peft_type))
        raise InputError(f"The adapter {folder} was made for {made_for}.", fix=f"Those for {known} are read.")
    base = lineage.get("base", {})
    return {
        "base": base.get("name") or config.get("base_model_name_or_path"),
        "revision": base.get("revision"),
        "quantization": base.get("quantization"),
        "task": lineage.get("task") or tasks.get(str(made_for)),
        "labels": lineage.get("labels") or [],
        "conversations": lineage.get("conversations") is True,
    }


def with_adapter_facts(config: Config, adapter: str | None) -> tuple[Config, dict[str, Any]]:
    """Fill in what an adapter's folder knows: the base, where no model is named, and the task."""
    if adapter is None:
        return config, {}
    facts, model = adapter_facts(adapter), config.model
    if not model.name:
        model = model.model_copy(update={"name": facts["base"], "revision": model.revision or facts["revision"]})
        if model.quantization == "none" and facts["quantization"] in quantized.KINDS:  # as it was trained
            model = model.model_copy(update={"quantization": facts["quantization"]})
    return config.model_copy(update={"model": model, "task": config.task or facts["task"]}), facts


def _as_completion(name: str, known: set[str], data: DataSection) -> str:
    """Write a label's bare name as a completion: through the template where it has one column, else as its kin are."""
    if name in known:
        return name
    template = Template(data.completion, "data.completion") if data.completion else None
    if template is not None and len(template.columns) == 1:
        return template.fill({template.columns[0]: name}, "data.labels")
    return f" {name}" if known and all(label.startswith(" ") for label in known) else name
