"""One file for each thing that metrics can need of a model, found by being here: likelihoods, labels, answers."""

from collections.abc import Collection

from tunelift.core.errors import InputError, listed
from tunelift.core.registry import import_all
from tunelift.evaluation.measures.base import MEASURES, Measure
from tunelift.evaluation.plan import Plan
from tunelift.metrics import Metric
from tunelift.tasks import Task

__all__ = ["MEASURES", "Measure", "measure_for", "measure_of"]

import_all(__name__, __path__)


def measure_for(plan: Plan) -> type[Measure]:
    """Return the measure that gives what a plan's metrics need; raise InputError where none does."""
    return measure_of(plan.task, plan.metrics)


def measure_of(task: Task, metrics: Collection[Metric]) -> type[Measure]:
    """Return the first measure of the task that gives all that these metrics need; raise InputError where none does."""
    needs, measures = {metric.needs for metric in metrics}, [MEASURES.get(name) for name in task.measures]
    if found := next((measure for measure in measures if needs <= measure.gives), None):
        return found
    given = {need for measure in measures for need in measure.gives}
    wrong = [metric.name for metric in metrics if metric.needs not in given] or [metric.name for metric in metrics]
    raise InputError(
        f"The task {task.name} does not give {listed(wrong)}.",
        fix=f"Metrics that need one of these can be measured: {listed(sorted(given))}.",
    )
