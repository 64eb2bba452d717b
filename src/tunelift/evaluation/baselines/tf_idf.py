"""TF-IDF with logistic regression: what counting words and characters is worth on this task."""

from __future__ import annotations

from collections.abc import Sequence

from tunelift.core.records import Example, Scores
from tunelift.evaluation import predicted_labels
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.features import WordFeatures
from tunelift.evaluation.plan import Plan

STRENGTHS = (1.0, 10.0, 100.0)


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    reason = predicted_labels.misfit(plan, train, likelihoods=True)
    if reason is None and len({example.prompt.strip() for example in train}) < 2:
        return "the training rows have one text only"
    return reason


class TfIdf:
    """Reads what differs from prompt to prompt, the template's own words left out."""

    def __init__(self, given: Given) -> None:
        self.given, self.features = given, WordFeatures(given.train)
        features, labels = self.features(given.train), [example.completion for example in given.train]
        self.regression = predicted_labels.Regression(STRENGTHS, features, labels, given.seed, "tf-idf")
        self.description = f"TF-IDF (words and character n-grams) with logistic regression, {self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the predicted labels."""
        found = self.regression.predict(self.features(examples), examples, self.given.plan.labels)
        made_by = self.given.made_by("tf-idf", self.description)
        return predicted_labels.label_rows(self.given.plan, made_by, examples, found, likelihoods=True)
