"""Logistic regression on small pictures: what colours and coarse shapes are worth on this task."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.records import Example, Picture, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.features import PixelFeatures
from tunelift.evaluation.plan import Plan

STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not any(isinstance(example.given, Picture) for example in train):
        return "it looks at pictures, and the rows have none"
    return predicting.misfit(plan, train, likelihoods=True)


class Pixels:
    """A regression on the colours of a few hundred places of a picture."""

    def __init__(self, given: Given) -> None:
        kind = predicting.predictor(given.plan)
        assert kind is not None  # else it is a misfit
        self.given, self.features = given, PixelFeatures()
        self.regression = kind(STRENGTHS, self.features(given.train), given.train, given.seed, "pixels")
        side = PixelFeatures.SIDE
        self.description = f"{kind.name} on pictures of {side} by {side} points, {self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of what is predicted."""
        found = self.regression.predict(self.features(examples), examples, self.given.plan.labels)
        made_by = self.given.made_by("pixels", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=True)
