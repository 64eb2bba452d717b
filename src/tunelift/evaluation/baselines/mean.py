"""The mean of the training rows, whatever the item: what no constant beats on squared errors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from tunelift.core.records import Example, Numbers, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import numbered


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if "numbers" not in measure_for(plan).gives:
        return "it predicts numbers, and none are asked for"
    return predicting.misfit(plan, train, likelihoods=False)


class Constant:
    """Answers every item alike, with what `middle` makes of the training rows' numbers."""

    def __init__(self, given: Given, name: str, middle: Callable[[Sequence[float]], float]) -> None:
        self.given, self.name = given, name
        rows = (example.wanted.values for example in given.train if isinstance(example.wanted, Numbers))
        self.values = [middle(column) for column in zip(*rows, strict=True)]
        said = ", ".join(format(value, ".4g") for value in self.values)
        self.description = f"the {name} of the training rows ({said})"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the one answer."""
        made_by, found = self.given.made_by(self.name, self.description), [numbered(e, self.values) for e in examples]
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=False)


def make(given: Given) -> Constant:
    """Return the baseline."""
    return Constant(given, "mean", statistics.fmean)
