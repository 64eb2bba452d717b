"""What a run works on, read and checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunelift.config.schema import Config
from tunelift.data.splits import Splits, load_splits
from tunelift.evaluation.baselines import suitable
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import slices_of
from tunelift.pipeline import choices
from tunelift.pipeline.forgetting import forgetting_sets
from tunelift.tasks import Task


@dataclass(frozen=True, slots=True)
class Prepared:
    """A config with its choices settled, its rows, what is measured on them, and the sets for forgetting.

    `labels` are a head's classes, or those that an answer is chosen from; the plan has them where a metric needs them.
    """

    config: Config
    task: Task
    splits: Splits
    plan: Plan
    labels: Sequence[str]
    sets: Mapping[str, Splits]


def prepare(config: Config, required: Sequence[str] = ()) -> Prepared:
    """Read the rows and settle what follows from them; raise InputError for what is wrong with config or data.

    `required` are metrics that a gate will ask for.
    """
    if config.train.seeds:  # the run's own adapter is made with the first
        config = config.trained_with(seed=config.train.seeds[0])
    choices.check_larger_model(config.larger_model)
    task = choices.task_for(config)
    config = choices.settled(config, task)
    data, evaluate = config.data, config.evaluate
    splits = load_splits(data, reading=task.reading)
    metrics = choices.metrics_for(evaluate.metrics, task, splits.train)
    choices.check_labels(splits.train, splits.test, data, metrics)
    choices.check_numbers(splits.test, metrics)
    choices.check_required(required, metrics)
    labels = choices.ranked_labels(task, splits, data)
    plan = choices.evaluation_plan(evaluate, metrics, task, labels, config.train.max_length, config.larger_model)
    suitable(plan, splits.train, evaluate.baselines)
    slices_of(splits.test, plan.slices)
    return Prepared(config, task, splits, plan, labels, forgetting_sets(evaluate, task))
