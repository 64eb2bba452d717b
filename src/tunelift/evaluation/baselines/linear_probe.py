"""The linear probe: how far a regression on the frozen model's features comes, without any tuning.

The features of a text are the mean of its tokens' last hidden states, standardised (Alain and Bengio 2016 probe the
layers of a network like this); of a pair `evaluation/features.py` has more.
"""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core import randomness
from tunelift.core.records import Example, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.features import HiddenFeatures
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.predicted_options import apart, together

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
MOST_ROWS = 10_000
"""Training rows at most: each costs a forward pass, and more rows add little to a few hundred features."""


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not plan.task.has_head:
        return "it takes the place of a classification head, and this task has none"
    return predicting.misfit(plan, train, likelihoods=True)


class LinearProbe:
    """A regression on the base model's features, computed with the adapter off."""

    def __init__(self, given: Given) -> None:
        from sklearn.preprocessing import StandardScaler

        kind = predicting.predictor(given.plan)
        assert kind is not None  # else it is a misfit
        self.given, self.features = given, HiddenFeatures(given.model, given.tokenizer, given.plan)
        train = apart(randomness.sample(given.train, MOST_ROWS, f"{given.seed} linear-probe"))
        features = self.features(train, "linear-probe: features of train")
        self.scaler = StandardScaler().fit(features)
        self.regression = kind(STRENGTHS, self.scaler.transform(features), train, given.seed, "linear-probe")
        how = "" if kind is predicting.PREDICTORS["label"] else f"{kind.name}, "
        self.description = f"a linear probe on the base model's frozen features, {how}{self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of what is predicted."""
        parts = apart(examples)
        features = self.scaler.transform(self.features(parts, title))
        found = together(examples, self.regression.predict(features, parts, self.given.plan.labels))
        made_by = self.given.made_by("linear-probe", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=True)
