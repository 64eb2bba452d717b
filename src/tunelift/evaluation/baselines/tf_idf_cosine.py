"""Texts compared by the cosine of their TF-IDF counts of words and characters, without a model.

Of pairs with a score the cosine is the answer, otherwise the texts with the highest are what is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunelift.core.records import Example, Numbers, Scores
from tunelift.data.shared_words import SharedWords
from tunelift.evaluation import found_texts
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.features import text_vectorizer
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.nearest import Floats, Search
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found
from tunelift.tasks.sentence_embedding import said_texts


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    scored = plan.task.reads_states and "numbers" in measure_for(plan).gives
    return None if scored and train else found_texts.misfit(plan, train)


class Cosine:
    """TF-IDF of words and characters, fitted on the training rows' texts; the nearer, the higher the cosine."""

    def __init__(self, given: Given) -> None:
        self.given = given
        texts = _texts(given.train)
        self.frame = SharedWords.of(texts)
        self.vectorizer = text_vectorizer(1).fit([self.frame.inside(text) for text in texts])
        self.description = "cosine of TF-IDF (words and character n-grams), fitted on the training rows"

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of what is found, or of the cosines of scored pairs."""
        if any(isinstance(example.wanted, Numbers) for example in examples):
            first, second = (self._counts(texts) for texts in zip(*map(said_texts, examples), strict=True))
            cosines = np.asarray(first.multiply(second).sum(axis=1)).ravel().tolist()
            found = {i: Found(format(cosine, ".9g"), 0.0, 1) for i, cosine in enumerate(cosines)}
            return self._scores(examples, found)
        search = Search.of(examples)
        queries, every = self._counts(search.queries), self._counts(search.texts)

        def near(some: Sequence[int]) -> Floats:
            return np.asarray((queries[list(some)] @ every.T).todense())

        return self._scores(examples, search.answers(range(len(examples)), near, 1.0))

    def _counts(self, texts: Sequence[str]) -> Any:
        """Return (texts, features), each row of length 1 or without anything."""
        from sklearn.preprocessing import normalize

        return normalize(self.vectorizer.transform([self.frame.inside(text) for text in texts]))

    def _scores(self, examples: Sequence[Example], found: dict[int, Found]) -> Scores:
        return found_texts.found_scores(self.given, ("tf-idf-cosine", self.description), examples, found)


def _texts(examples: Sequence[Example]) -> list[str]:
    pairs = (said_texts(example) if example.wanted is not None else [example.prompt] for example in examples)
    return list(dict.fromkeys(text for texts in pairs for text in texts))
