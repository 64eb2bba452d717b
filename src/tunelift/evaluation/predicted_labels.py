"""Labels predicted from features, by logistic regression."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.evaluation.rows import Found, labelled

FOLDS = 3
MOST_ROWS_TO_CHOOSE = 3000
"""Training rows at most on which C is chosen: the fit with the chosen one takes them all."""


class Regression:
    """Logistic regression from features to labels; the inverse strength C of its penalty is chosen by cross-validation.

    `features` (rows, features), sparse or dense, are those of the training rows; `strengths` are the C to choose
    from, weakest last. The folds are drawn by `seed` and hold each label alike as far as its rows go. The C with
    most held-out rows right is taken; of equal ones that with the higher log-probability, then the stronger penalty.
    `chosen` says for people which C it is; `title` is that of the progress bar.
    """

    name: ClassVar[str] = "logistic regression"

    def __init__(
        self, strengths: Sequence[float], features: Any, train: Sequence[Example], seed: int, title: str
    ) -> None:
        self.rows, labels_found = len(train), np.asarray([example.completion for example in train])
        folds = _folds(labels_found, seed)
        with progress.bar(title, len(folds) * len(strengths) + 1) as advance:
            qualities = [(0, 0.0)] * len(strengths)
            for fit, held_out in folds:
                models = _fitted(strengths, features[fit], labels_found[fit], advance)
                found = [_quality(model, features[held_out], labels_found[held_out]) for model in models]
                qualities = [(a + c, b + d) for (a, b), (c, d) in zip(qualities, found, strict=True)]
            best = max(range(len(strengths)), key=lambda i: (*qualities[i], -i))
            (self.model,) = _fitted([strengths[best]], features, labels_found, advance)
        how = "chosen by cross-validation in train" if folds else "as there are too few training rows to choose on"
        self.chosen = f"C = {strengths[best]:g} {how}"

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


def _folds(labels: NDArray[Any], seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the rows to fit and those held out of each fold, without folds that leave one label only to fit.

    No label in more rows than there are folds means that none can be spread evenly: the folds are then any rows.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_ROWS_TO_CHOOSE])
    some = labels[rows]
    count = min(FOLDS, len(some))
    even = np.unique(some, return_counts=True)[1].max() >= count
    kind = (StratifiedKFold if even else KFold)(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label in fewer rows than there are folds is in some of them only
        folds = [(rows[fit], rows[held_out]) for fit, held_out in kind.split(some, some)]
    return [fold for fold in folds if len(set(labels[fold[0]])) > 1]


def _fitted(strengths: Sequence[float], features: Any, labels: NDArray[Any], advance: progress.Advance) -> list[Any]:
    """Fit one regression for each C, each beginning where the one before it ended."""
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that ran out of steps is still chosen, or not, by what it predicts
        for strength in strengths:
            model = LogisticRegression(C=strength, max_iter=200, warm_start=True)
            if models:
                model.coef_, model.intercept_ = models[-1].coef_, models[-1].intercept_
            models.append(model.fit(features, labels))
            advance(1)
    return models


def _quality(model: Any, features: Any, labels: NDArray[Any]) -> tuple[int, float]:
    """Return how many labels are right, and their summed log-probability (nats) without those that the model lacks."""
    scores, index = _log_probabilities(model, features), {label: i for i, label in enumerate(model.classes_)}
    right = model.classes_[scores.argmax(axis=1)] == labels
    return int(right.sum()), math.fsum(scores[i, index[label]] for i, label in enumerate(labels) if label in index)


def _log_probabilities(model: Any, features: Any) -> NDArray[np.float64]:
    """Return log-probabilities (rows, labels), in float64: in float32 a small one would be 0, its logarithm infinite.

    Of two labels, scikit-learn's decision is the log-odds of the second.
    """
    from scipy.special import log_softmax

    decision = model.decision_function(features).astype(np.float64)
    scores = decision if decision.ndim == 2 else np.stack([np.zeros_like(decision), decision], axis=1)
    found: NDArray[np.float64] = log_softmax(scores, axis=1)
    return found
