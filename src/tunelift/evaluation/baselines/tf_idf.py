"""TF-IDF with a regression: what counting words and characters is worth on this task."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.records import Example, Picture, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.features import WordFeatures
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.predicted_options import apart, together

STRENGTHS = (1.0, 10.0, 100.0)


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if any(isinstance(example.given, Picture) for example in train):
        return "it counts words, and the rows are pictures"
    reason = predicting.misfit(plan, train, likelihoods=True)
    if reason is None and len({example.prompt.strip() for example in train}) < 2:
        return "the training rows have one text only"
    return reason


class TfIdf:
    """Reads what differs from prompt to prompt, the template's own words left out."""

    def __init__(self, given: Given) -> None:
        kind = predicting.predictor(given.plan)
        assert kind is not None  # else it is a misfit
        train = apart(given.train)
        self.given, self.features = given, WordFeatures(train)
        self.regression = kind(STRENGTHS, self.features(train), train, given.seed, "tf-idf")
        self.description = f"TF-IDF (words and character n-grams) with {kind.name}, {self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of what is predicted."""
        parts = apart(examples)
        found = together(examples, self.regression.predict(self.features(parts), parts, self.given.plan.labels))
        made_by = self.given.made_by("tf-idf", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=True)
