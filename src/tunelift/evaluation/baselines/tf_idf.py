"""TF-IDF with logistic regression: what counting words and characters is worth on this task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunelift.core.records import Example, Scores
from tunelift.data.shared_words import SharedWords
from tunelift.evaluation import predicted_labels
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.plan import Plan

STRENGTHS = (1.0, 10.0, 100.0)
MOST_FEATURES = 50_000
"""Of words and of character n-grams each; with hundreds of labels more would need gigabytes."""
MANY_ROWS = 1000
"""From so many rows on, an n-gram that stands in one row only is left out: half the time, the same accuracy."""


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    reason = predicted_labels.misfit(plan, train, likelihoods=True)
    if reason is None and len({example.prompt.strip() for example in train}) < 2:
        return "the training rows have one text only"
    return reason


class TfIdf:
    """Reads what differs from prompt to prompt, the template's own words left out."""

    def __init__(self, given: Given) -> None:
        self.given, self.shared = given, SharedWords.of([example.prompt for example in given.train])
        self.vectorizer = _vectorizer(2 if len(given.train) >= MANY_ROWS else 1)
        self.vectorizer.fit(self._texts(given.train))
        features, labels = self._features(given.train), [example.completion for example in given.train]
        self.regression = predicted_labels.Regression(STRENGTHS, features, labels, given.seed, "tf-idf")
        self.description = f"TF-IDF (words and character n-grams) with logistic regression, {self.regression.chosen}"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the predicted labels."""
        found = self.regression.predict(self._features(examples), examples, self.given.plan.labels)
        made_by = self.given.made_by("tf-idf", self.description)
        return predicted_labels.label_rows(self.given.plan, made_by, examples, found, likelihoods=True)

    def _features(self, examples: Sequence[Example]) -> Any:
        return self.vectorizer.transform(self._texts(examples))

    def _texts(self, examples: Sequence[Example]) -> list[str]:
        return [self.shared.inside(example.prompt).strip() for example in examples]


def _vectorizer(min_rows: int) -> Any:
    """Words and pairs of words, with punctuation marks as words, and n-grams of 3 to 5 characters within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    shared = {"sublinear_tf": True, "dtype": np.float32, "max_features": MOST_FEATURES, "min_df": min_rows}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", **shared)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **shared)
    return FeatureUnion([("words", words), ("characters", characters)])
