"""What baselines that predict labels share: the rows of their scores, and the regression behind two of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.core import progress
from tunelift.core.records import FORMAT, Example, Scores
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.rows import Found, answered, begun, labelled, metric_entry, slices_of
from tunelift.evaluation.run import Plan
from tunelift.metrics import Metric

CLASSIFICATION = "sequence-classification"


def given_metrics(plan: Plan, *, likelihoods: bool) -> list[Metric]:
    """Return the metrics that a predicted label gives, and with `likelihoods` those that its probability gives.

    A probability of a label stands beside that of a head. Beside a language model's tokens it means something else.
    """
    likely = likelihoods and plan.task == CLASSIFICATION
    return [metric for metric in plan.metrics if likely or metric.needs != "likelihood"]


def misfit(plan: Plan, train: Sequence[Example], *, likelihoods: bool) -> str | None:
    """Say why a baseline that predicts labels does not suit the plan and the training rows, or return None."""
    if plan.task != CLASSIFICATION and not plan.ranks:
        return "it predicts labels, and no metric here ranks any"
    if not given_metrics(plan, likelihoods=likelihoods):
        return "a label without a probability gives none of the metrics"
    return None if train else "there are no training rows"


def needs_two_labels(train: Sequence[Example]) -> str | None:
    """Say that there is nothing to tell apart, where all training rows have one label."""
    return None if len({example.completion for example in train}) > 1 else "the training rows have one label only"


def label_rows(
    given: Given,
    made_by: Mapping[str, Any],
    examples: Sequence[Example],
    predictions: Sequence[Found],
    *,
    likelihoods: bool,
) -> Scores:
    """Return scores in which each example was answered with a label; `likelihoods` says if with its probability."""
    metrics, slices = given_metrics(given.plan, likelihoods=likelihoods), slices_of(examples, given.plan.slices)
    rows = []
    for example, values, found in zip(examples, slices, predictions, strict=True):
        answer = answered(example, found, metrics)
        if not likelihoods:  # there is none to tell, and nothing of which it would be
            answer = {key: value for key, value in answer.items() if key not in ("log_likelihood", "tokens")}
        rows.append(begun(example, values) | answer)
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": sum("unscored" in row for row in rows),
        "metrics": {metric.name: metric_entry(metric, rows) for metric in metrics},
        "made_with": {"task": given.plan.task, **made_by},
    }
    return Scores(rows, info)


def certain(label: str) -> Found:
    """A label without a probability."""
    return Found(label, tokens=1)


def labels_of(examples: Sequence[Example]) -> list[str]:
    """Return the label of each example: the completion's text, or the name of a class."""
    return [example.completion for example in examples]


@dataclass(frozen=True, slots=True)
class Strengths:
    """The inverse strengths C of the penalty to choose from, weakest last, and the one taken without validation."""

    choices: Sequence[float]
    otherwise: float


class Regression:
    """Logistic regression from features to labels; C is the one with the best accuracy on validation.

    Of equal accuracies the one with the higher mean log-probability counts, then the stronger penalty. `train` and
    `validation` are features (rows, features), sparse or dense, and labels; validation may have no rows. `chosen` says
    for people which C it is; `title` is that of the progress bar.
    """

    def __init__(
        self, strengths: Strengths, train: tuple[Any, list[str]], validation: tuple[Any, list[str]], title: str
    ) -> None:
        self.rows = len(train[1])
        if not validation[1]:
            (self.model,) = _fitted([strengths.otherwise], *train, title)
            self.chosen = f"C = {strengths.otherwise:g} as there are no validation rows"
            return
        models = _fitted(strengths.choices, *train, title)
        best = max(range(len(models)), key=lambda i: (*_quality(models[i], *validation), -i))
        self.model = models[best]
        self.chosen = f"C = {strengths.choices[best]:g} chosen on validation"

    def predict(self, features: Any, examples: Sequence[Example], labels: Sequence[str]) -> list[Found]:
        """Return each example's log-probabilities (nats) of the training rows' labels and of `labels`.

        Labels that no training row has share the probability 1 / (rows + 1), so that none is impossible.
        """
        classes = [str(label) for label in self.model.classes_]
        scores, rest = _log_probabilities(self.model, features), dict[str, float]()
        if unseen := [label for label in labels if label not in set(classes)]:
            scores += math.log(self.rows / (self.rows + 1))
            rest = dict.fromkeys(unseen, -math.log((self.rows + 1) * len(unseen)))
        return [
            labelled(example.completion, dict(zip(classes, row, strict=True)) | rest, None, tokens=1)
            for example, row in zip(examples, scores.tolist(), strict=True)
        ]


def _fitted(strengths: Sequence[float], features: Any, labels: list[str], title: str) -> list[Any]:
    """Fit one regression for each C, each beginning where the one before it ended."""
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    with progress.bar(title, len(strengths)) as advance, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that ran out of steps is still chosen, or not, by what it predicts
        for strength in strengths:
            model = LogisticRegression(C=strength, max_iter=200, warm_start=True)
            if models:
                model.coef_, model.intercept_ = models[-1].coef_, models[-1].intercept_
            models.append(model.fit(features, labels))
            advance(1)
    return models


def _quality(model: Any, features: Any, labels: list[str]) -> tuple[float, float]:
    """Return accuracy and mean log-probability (nats) of the labels; one that the model lacks counts as wrong only."""
    scores, index = _log_probabilities(model, features), {label: i for i, label in enumerate(model.classes_)}
    right = model.classes_[scores.argmax(axis=1)] == np.asarray(labels)
    known = [scores[i, index[label]] for i, label in enumerate(labels) if label in index]
    return float(right.mean()), float(np.mean(known)) if known else 0.0


def _log_probabilities(model: Any, features: Any) -> NDArray[np.float64]:
    """Return log-probabilities (rows, labels), in float64: in float32 a small one would be 0, its logarithm infinite.

    Of two labels, scikit-learn's decision is the log-odds of the second.
    """
    from scipy.special import log_softmax

    decision = model.decision_function(features).astype(np.float64)
    scores = decision if decision.ndim == 2 else np.stack([np.zeros_like(decision), decision], axis=1)
    found: NDArray[np.float64] = log_softmax(scores, axis=1)
    return found
