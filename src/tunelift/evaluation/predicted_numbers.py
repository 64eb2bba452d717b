"""Numbers predicted from features, by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tunelift.core import progress
from tunelift.core.records import Example, Numbers
from tunelift.evaluation.predicted_labels import FOLDS, MOST_ROWS_TO_CHOOSE
from tunelift.evaluation.rows import Found, numbered


class Ridge:
    """Ridge regression from features to numbers, each in its own spread, so that none counts more than another.

    The penalty is the inverse of a strength, or ten times that of the first; the one with the least squared error on
    rows held out in train is taken, of equal ones the stronger. Predictions stay within what the training rows have.
    """

    name: ClassVar[str] = "ridge regression"

    def __init__(
        self, strengths: Sequence[float], features: Any, train: Sequence[Example], seed: int, title: str
    ) -> None:
        from sklearn.model_selection import KFold

        wanted = np.array([example.wanted.values for example in train if isinstance(example.wanted, Numbers)])
        self.low, self.high = wanted.min(axis=0), wanted.max(axis=0)
        self.mean, self.spread = wanted.mean(axis=0), np.where(wanted.std(axis=0) > 0, wanted.std(axis=0), 1.0)
        scaled, penalties = (wanted - self.mean) / self.spread, [10 / strengths[0], *(1 / one for one in strengths)]
        rows = np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_ROWS_TO_CHOOSE])
        count = min(FOLDS, len(rows))
        folds = list(KFold(count, shuffle=True, random_state=seed).split(rows)) if count > 1 else []
        errors = np.zeros(len(penalties))
        with progress.bar(title, len(folds) * len(penalties) + 1) as advance:
            for fit, held_out in folds:
                for i, penalty in enumerate(penalties):
                    model = _fitted(penalty, features[rows[fit]], scaled[rows[fit]])
                    errors[i] += np.sum((_predicted(model, features[rows[held_out]]) - scaled[rows[held_out]]) ** 2)
                    advance(1)
            best = int(errors.argmin())
            self.model = _fitted(penalties[best], features, scaled)
            advance(1)
        how = "chosen by cross-validation in train" if folds else "as there are too few training rows to choose on"
        self.chosen = f"alpha = {penalties[best]:g} {how}"

    def predict(self, features: Any, examples: Sequence[Example], labels: Sequence[str]) -> list[Found]:
        """Return each example's numbers."""
        found = np.clip(_predicted(self.model, features) * self.spread + self.mean, self.low, self.high)
        return [numbered(example, values) for example, values in zip(examples, found.tolist(), strict=True)]


def _fitted(penalty: float, features: Any, wanted: NDArray[np.float64]) -> Any:
    from sklearn.linear_model import Ridge as Stock

    return Stock(alpha=penalty).fit(features, wanted)


def _predicted(model: Any, features: Any) -> NDArray[np.float64]:
    """Return (rows, outputs), which scikit-learn gives as (rows,) where there is one."""
    found = np.asarray(model.predict(features), dtype=np.float64)
    return found[:, None] if found.ndim == 1 else found
