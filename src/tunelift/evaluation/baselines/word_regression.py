"""Tags by a word's letters and its neighbours: what a linear model that reads no meaning is worth on this task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from tunelift.core import progress, randomness
from tunelift.core.records import Example, Scores
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines import word_majority
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.baselines.word_majority import tagged_words
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found

MOST_TEXTS = 10_000
"""Training rows at most."""
STRENGTH = 1.0


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    reason = word_majority.misfit(plan, train)
    tags = {tag for _, own in tagged_words(train) for tag in own} if reason is None else set[str]()
    return reason or ("the training rows have one tag only" if len(tags) < 2 else None)


class WordRegression:
    """Logistic regression tells each word's tag from its letters and those of the words beside it, each word alone."""

    description = (
        "logistic regression over each word, its beginning and end, how it is written, and the words beside it"
    )

    def __init__(self, given: Given) -> None:
        from sklearn.feature_extraction import DictVectorizer
        from sklearn.linear_model import LogisticRegression

        self.given, self.vectorizer = given, DictVectorizer()
        some = randomness.sample(given.train, min(MOST_TEXTS, len(given.train)), f"{given.seed} word-regression")
        texts, tags = zip(*tagged_words(some), strict=True)
        with progress.bar("word-regression", 1) as advance, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that ran out of steps is what it is
            features = self.vectorizer.fit_transform([one for words in texts for one in word_features(words)])
            wanted = [tag for own in tags for tag in own]
            self.model: Any = LogisticRegression(C=STRENGTH, max_iter=100).fit(features, wanted)
            advance(1)

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the likeliest tag of each word."""
        texts = [words for words, _ in tagged_words(examples)]
        said = iter(self.model.predict(self.vectorizer.transform([f for words in texts for f in word_features(words)])))
        found = [Found(" ".join(str(next(said)) for _ in words), tokens=len(words)) for words in texts]
        made_by = self.given.made_by("word-regression", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=False)


def word_features(words: Sequence[str]) -> list[dict[str, float]]:
    """Return what is known of each word of a text, by name: all of it is there (1) or not."""
    plain, shapes = [word.lower() for word in words], [_shape(word) for word in words]
    found = []
    for at, (word, shape) in enumerate(zip(plain, shapes, strict=True)):
        own = [f"word {word}", f"shape {shape}", f"begins {word[:3]}", f"ends {word[-2:]}", f"ends {word[-3:]}"]
        for place in (at - 1, at + 1):
            side = "before" if place < at else "behind"
            there = 0 <= place < len(words)
            own += [f"{side} {plain[place]}", f"{side} shape {shapes[place]}"] if there else [f"nothing {side}"]
        found.append(dict.fromkeys(own, 1.0))
    return found


def _shape(word: str) -> str:
    """Return how a word is written: X for capitals, x for other letters, 9 for digits, runs of one as one."""
    kinds = ["X" if c.isupper() else "x" if c.isalpha() else "9" if c.isdigit() else c for c in word]
    return "".join(kind for before, kind in zip(["", *kinds], kinds, strict=False) if kind != before)
