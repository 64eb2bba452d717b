"""One file for each thing that metrics can need of a model, found by being here: likelihoods, labels, answers."""

from collections.abc import Collection

from tunelift.core.errors import InputError, listed
from tunelift.core.registry import import_all
from tunelift.evaluation.measures.base import MEASURES, Measure
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Metric
from tunelift.tasks import Task

__all__ = ["MEASURES", "Measure", "check_measurable", "measure_for"]

import_all(__name__, __path__)


def measure_for(plan: Plan) -> type[Measure]:
    """Return the first measure of the plan's task that gives all that its metrics need.

    Raises InputError where none does.
    """
    check_measurable(plan.task, plan.metrics)
    return _first(plan.task, plan.needs) or MEASURES.get(plan.task.measures[0])


def check_measurable(task: Task, metrics: Collection[Metric]) -> None:
    """Raise InputError for metrics that the task cannot give, naming those that it can."""
    if _first(task, {metric.needs for metric in metrics}) is None:
        given = {need for name in task.measures for need in MEASURES.get(name).gives}
        wrong = [metric.name for metric in metrics if metric.needs not in given] or [m.name for m in metrics]
        raise InputError(
            f"The task {task.name} does not give {listed(wrong)}.",
            fix=f"Metrics that need one of these can be measured: {listed(sorted(given))}.",
        )


def _first(task: Task, needs: Collection[str]) -> type[Measure] | None:
    return next((m for m in map(MEASURES.get, task.measures) if set(needs) <= set(m.gives)), None)
