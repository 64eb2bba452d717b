"""What baselines that predict share: which answers they can give, and the rows of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from tunelift.core.records import Example, Scores
from tunelift.evaluation import predicted_labels, predicted_numbers, predicted_sets
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, answered, begun, metric_entry, slices_of
from tunelift.metrics import Metric
from tunelift.run_files.layout import FORMAT


class Predictor(Protocol):
    """What is fitted to features (rows, features) of training rows, by the `strengths` that it may choose from.

    `name` says to people what it is, and `chosen` how it was fitted.
    """

    name: ClassVar[str]
    chosen: str

    def __init__(
        self, strengths: Sequence[float], features: Any, train: Sequence[Example], seed: int, title: str
    ) -> None: ...

    def predict(self, features: Any, examples: Sequence[Example], labels: Sequence[str]) -> list[Found]:
        """Return an answer for each example; `labels` are the names of what there is to answer with."""


PREDICTORS: Mapping[str, type[Predictor]] = {
    "label": predicted_labels.Regression,
    "numbers": predicted_numbers.Ridge,
    "label-set": predicted_sets.EachLabel,
}
"""By what metrics need."""


def predictor(plan: Plan) -> type[Predictor] | None:
    """Return what predicts the answers that a plan's metrics need, None where nothing does."""
    gives = measure_for(plan).gives
    return next((kind for need, kind in PREDICTORS.items() if need in gives), None)


def given_metrics(plan: Plan, *, likelihoods: bool) -> list[Metric]:
    """Return the metrics that a predicted label gives, and with `likelihoods` those that its probability gives.

    A probability of a label stands beside that of a head. Beside a language model's tokens it means something else.
    """
    likely = likelihoods and plan.task.has_head
    beyond = ("likelihood", "text-likelihood", "label-probabilities")
    return [metric for metric in plan.metrics if likely or metric.needs not in beyond]


def misfit(plan: Plan, train: Sequence[Example], *, likelihoods: bool) -> str | None:
    """Say why a baseline that predicts does not suit the plan and the training rows, or return None."""
    if predictor(plan) is None:
        return "it predicts labels, and no metric here ranks any"
    if not given_metrics(plan, likelihoods=likelihoods):
        return "a label without a probability gives none of the metrics"
    if not train:
        return "there are no training rows"
    nothing_to_tell = likelihoods and len({example.completion for example in train}) < 2
    return "the training rows have one label only" if nothing_to_tell else None


def predicted_rows(
    plan: Plan,
    made_by: Mapping[str, Any],
    examples: Sequence[Example],
    predictions: Sequence[Found],
    *,
    likelihoods: bool,
) -> Scores:
    """Return scores of predicted answers; `likelihoods` says whether these have a probability."""
    metrics = given_metrics(plan, likelihoods=likelihoods)
    return rows_of(plan, metrics, made_by, examples, predictions, likelihoods=likelihoods)


def rows_of(
    plan: Plan,
    metrics: Sequence[Metric],
    made_by: Mapping[str, Any],
    examples: Sequence[Example],
    predictions: Sequence[Found],
    *,
    likelihoods: bool = False,
) -> Scores:
    """Return scores of answers by these metrics."""
    rows = []
    for example, values, found in zip(examples, slices_of(examples, plan.slices), predictions, strict=True):
        answer = answered(example, found, metrics)
        if not likelihoods:  # there is none to tell, and nothing of which it would be
            answer = {key: value for key, value in answer.items() if key not in ("log_likelihood", "tokens")}
        rows.append(begun(example, values) | answer)
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": sum("unscored" in row for row in rows),
        "metrics": {metric.name: metric_entry(metric, rows) for metric in metrics},
        "made_with": {"task": plan.task.name, **made_by},
    }
    return Scores(rows, info)
