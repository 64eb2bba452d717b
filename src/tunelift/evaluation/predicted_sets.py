"""Sets of labels predicted from features, by a logistic regression for each label."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tunelift.core import progress
from tunelift.core.records import Example, LabelSet
from tunelift.evaluation.predicted_labels import MOST_ROWS_TO_CHOOSE
from tunelift.evaluation.rows import Found, label_set
from tunelift.metrics.label_sets import threshold_of

Floats = NDArray[np.float64]


class EachLabel:
    """A logistic regression for each label against the rest.

    The inverse strength C of their penalty, and the probability from which a label applies, are those with the highest
    micro F1 on a third of the training rows that is held out for it; C is the same for all.
    """

    name: ClassVar[str] = "logistic regression for each label"

    def __init__(
        self, strengths: Sequence[float], features: Any, train: Sequence[Example], seed: int, title: str
    ) -> None:
        wanted = [set(example.wanted.labels) for example in train if isinstance(example.wanted, LabelSet)]
        self.rows, self.labels = len(train), sorted(set[str]().union(*wanted))
        truth = np.array([[label in labels for label in self.labels] for labels in wanted], dtype=bool)
        rows = np.random.default_rng(seed).permutation(len(train))[:MOST_ROWS_TO_CHOOSE]
        held_out, fit = np.sort(rows[: len(rows) // 3]), np.sort(rows[len(rows) // 3 :])
        with progress.bar(title, (len(strengths) + 1) * len(self.labels)) as advance:
            found = []
            for strength in strengths if len(held_out) else ():
                models = _fitted(strength, features[fit], truth[fit], advance)
                found.append(threshold_of(_probabilities(models, features[held_out]), truth[held_out]))
            best = max(range(len(found)), key=lambda i: (found[i][0], -i), default=0)
            self.threshold = found[best][1] if found and found[best][0] > 0 else 0.5
            self.models = _fitted(strengths[best], features, truth, advance)
        how = "chosen on a third of train" if found else "as there are too few training rows to choose on"
        self.chosen = f"C = {strengths[best]:g}, labels from {self.threshold:.2g} on, {how}"

    def predict(self, features: Any, examples: Sequence[Example], labels: Sequence[str]) -> list[Found]:
        """Return each example's labels; one that no training row has gets the probability 1 / (rows + 1)."""
        unseen = dict.fromkeys(labels, 1 / (self.rows + 1))
        rows = _probabilities(self.models, features).tolist()
        known = (unseen | dict(zip(self.labels, row, strict=True)) for row in rows)
        return [label_set(example, found, self.threshold) for example, found in zip(examples, known, strict=True)]


def _fitted(strength: float, features: Any, truth: NDArray[np.bool_], advance: progress.Advance) -> list[Any]:
    """Return a model for each label, or its log-odds where the rows do not tell it apart."""
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that ran out of steps is still chosen, or not, by what it predicts
        for column in truth.T:
            share = (column.sum() + 0.5) / (len(column) + 1)
            apart = 0 < column.sum() < len(column)
            model = LogisticRegression(C=strength, max_iter=200).fit(features, column) if apart else None
            models.append(math.log(share / (1 - share)) if model is None else model)
            advance(1)
    return models


def _probabilities(models: Sequence[Any], features: Any) -> Floats:
    """Return (rows, labels)."""
    rows = features.shape[0]
    odds = [np.full(rows, m) if isinstance(m, float) else m.decision_function(features) for m in models]
    return np.asarray(expit(np.array(odds, dtype=np.float64).reshape(len(models), rows).T))
