"""Answers in a passage by the words around them: what sharing words with the question is worth on this task."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunelift.core import progress, randomness
from tunelift.core.records import Example, Pair, Scores, Spans
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found
from tunelift.metrics.registry import Answer
from tunelift.metrics.spans import normalised, squad_f1

LONGEST = 8
"""Words of a candidate at most."""
AROUND = 6
"""Words on either side that are looked at."""
MOST_QUESTIONS, WRONG_EACH = 2000, 60
"""What the regression is fitted on: so many training questions, and so many wrong candidates of each."""

ASKS = ("who", "when", "where", "how many", "how much", "how", "which", "why", "what")
"""What a question begins with, or has in it; the first that it has tells what it asks for."""

_WORDS = re.compile(r"\w+(?:[-'\u2019.,]\w+)*|[^\w\s]")
_INSIDE = frozenset("$£€%-'\u2019")
"""Marks that a candidate may hold."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.int_]


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why this baseline does not suit the plan and the training rows, or return None."""
    if not any(isinstance(example.wanted, Spans) and example.wanted.spans for example in train):
        return "it finds parts of passages, and no training row has one"
    if not predicting.given_metrics(plan, likelihoods=False):
        return "an answer without a probability gives none of the metrics"
    return None


@dataclass(frozen=True, slots=True)
class Candidates:
    """Runs of words of a passage, and what is known of each: `features` (candidates, features), from 0 to 1."""

    texts: list[str]
    features: Floats


class SpanRegression:
    """Logistic regression tells right runs of words from wrong ones; the likeliest of a passage is the answer.

    It reads how many of the question's words, the rare ones counting more, stand in a run's sentence and beside it, how
    long it is, and whether it is a name or a number where the question asks for one. Where training questions have no
    answer, none is said below the probability that gives them the best F1.
    """

    description = "logistic regression over runs of words, by the question's words around them and what it asks for"

    def __init__(self, given: Given) -> None:
        from sklearn.linear_model import LogisticRegression

        self.given = given
        some = randomness.sample(given.train, min(MOST_QUESTIONS, len(given.train)), f"{given.seed} span-regression")
        self.weights = _weights(some)
        features, right = list[Floats](), list[NDArray[np.bool_]]()
        draw = np.random.default_rng(given.seed)
        with progress.bar("span-regression", len(some)) as advance:
            for example in some:
                found = self._candidates(example)
                wanted = {normalised(text) for text in example.references}
                is_right = np.array([normalised(text) in wanted for text in found.texts], dtype=bool)
                wrong = draw.permutation(np.flatnonzero(~is_right))[:WRONG_EACH]
                kept = np.concatenate([np.flatnonzero(is_right), wrong]) if is_right.any() else wrong[:0]
                features.append(found.features[kept])
                right.append(is_right[kept])
                advance(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that ran out of steps is what it is
            rights = np.concatenate(right)
            self.model = (
                LogisticRegression(max_iter=300).fit(np.concatenate(features), rights) if rights.any() else None
            )
        self.least = self._least(some)

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the likeliest runs of words."""
        found = [Found(self._answer(example)[0], tokens=1) for example in examples]
        made_by = self.given.made_by("span-regression", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=False)

    def _answer(self, example: Example, least: float | None = None) -> tuple[str, float]:
        """Return the likeliest run of words, nothing where it is not likely enough, and how likely it is."""
        found = self._candidates(example)
        if self.model is None or not found.texts:
            return "", 0.0
        likely = self.model.decision_function(found.features)
        best = int(likely.argmax())
        least = self.least if least is None else least
        return found.texts[best] if likely[best] >= least else "", float(likely[best])

    def _least(self, some: Sequence[Example]) -> float:
        """Return how likely an answer must be: whatever where all questions have one, else by the best F1."""
        if all(example.completion for example in some):
            return float("-inf")
        said = [self._answer(example, float("-inf")) for example in some]
        values = [
            squad_f1(Answer(text, e.completion, references=e.references))
            for e, (text, _) in zip(some, said, strict=True)
        ]
        order = np.argsort([-likely for _, likely in said])
        none = np.array([not example.completion for example in some], dtype=float)[order]
        # Answering the k likeliest gives their F1, and the others' that have no answer.
        gained = (
            np.concatenate([[0.0], np.cumsum(np.array(values)[order])])
            + none.sum()
            - np.concatenate([[0.0], np.cumsum(none)])
        )
        count = int(gained.argmax())
        return said[order[count - 1]][1] if count else float("inf")

    def _candidates(self, example: Example) -> Candidates:
        given = example.given
        assert isinstance(given, Pair)
        return candidates(given.first, given.second, self.weights)


def _weights(examples: Sequence[Example]) -> dict[str, float]:
    """Return how telling each word is: the inverse document frequency over the passages."""
    passages = {example.given.second for example in examples if isinstance(example.given, Pair)}
    counts = Counter(word for passage in sorted(passages) for word in {w.lower() for w in _WORDS.findall(passage)})
    return {word: float(np.log((1 + len(passages)) / (1 + count)) + 1) for word, count in counts.items()}


def candidates(question: str, passage: str, weights: Mapping[str, float]) -> Candidates:
    """Return the runs of words of a passage that may be the answer, with what is known of each.

    `weights` say how telling a word is; one that they lack is as telling as any.
    """
    found = list(_WORDS.finditer(passage))
    words = [match[0] for match in found]
    barred = [not any(c.isalnum() for c in word) and word not in _INSIDE for word in words]
    runs = [
        (first, last)
        for first in range(len(words))
        for last in range(first, min(first + LONGEST, len(words)))
        if not any(barred[first : last + 1])
    ]
    if not runs:
        return Candidates([], np.zeros((0, 0)))
    first, last = np.array(runs).T
    features = _features(question.lower(), _Words.of(question, words, weights), first, last)
    return Candidates([passage[found[i].start() : found[j].end()] for i, j in runs], features)


@dataclass(frozen=True, slots=True)
class _Words:
    """What is known of each word of a passage (words,): how telling it is where the question has it (`shared`, of all
    that the question asks with), how much of that its sentence has, and whether it is a function word, a mark, a name
    or a number."""

    shared: Floats
    of_sentence: Floats
    stop: Flags
    mark: Flags
    name: Flags
    number: Flags

    @classmethod
    def of(cls, question: str, words: Sequence[str], weights: Mapping[str, float]) -> _Words:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        rare = max(weights.values(), default=1.0)
        asked = {word.lower() for word in _WORDS.findall(question)} - ENGLISH_STOP_WORDS
        total = sum(weights.get(word, rare) for word in asked) or 1.0
        shared = np.array([weights.get(w.lower(), rare) / total if w.lower() in asked else 0.0 for w in words])
        sentence = np.concatenate([[0], np.cumsum([word in ".!?" for word in words])[:-1]])
        sums = np.bincount(sentence, weights=shared)
        return cls(
            shared,
            np.minimum(sums, 1.0)[sentence],
            np.array([word.lower() in ENGLISH_STOP_WORDS for word in words]),
            np.array([not any(c.isalnum() for c in word) for word in words]),
            np.array([word[:1].isupper() for word in words]),
            np.array([any(c.isdigit() for c in word) for word in words]),
        )

    def within(self, values: Floats | Flags, begin: Places, end: Places) -> Floats:
        """Return the sums over words from `begin` to before `end`, those that there are."""
        sums, count = np.concatenate([[0.0], np.cumsum(values.astype(float))]), len(self.mark)
        return np.asarray(sums[np.clip(end, 0, count)] - sums[np.clip(begin, 0, count)])


def _features(question: str, words: _Words, first: Places, last: Places) -> Floats:
    """Return the features (runs, features) of runs of words from `first` to `last`, both included."""
    length, count = last - first + 1, len(words.mark)
    edge, named = np.concatenate([[True], words.stop | words.mark, [True]]), np.pad(words.name, 1)
    names = words.within(words.name | words.stop, first, last + 1) == length
    names &= words.name[first] & words.name[last]
    numbers = words.within(words.number, first, last + 1) > 0
    kinds = np.stack([names, numbers, ~(names | numbers)], axis=1)
    asks = next((at for at, ask in enumerate(ASKS) if ask in question), len(ASKS))
    asked = np.zeros((len(first), len(ASKS) + 1, kinds.shape[1]))
    asked[:, asks] = kinds
    plain = [
        words.of_sentence[first],
        words.of_sentence[first] == words.of_sentence.max(),
        np.minimum(words.within(words.shared, first, last + 1), 1),
        np.minimum(words.within(words.shared, first - AROUND, first), 1),
        np.minimum(words.within(words.shared, last + 1, last + 1 + AROUND), 1),
        *(words.stop[first], words.stop[last], words.mark[first] | words.mark[last]),
        *(edge[first], edge[last + 2]),  # what stands beside it ends a phrase
        *(named[first] & names, named[last + 2] & names),  # the name goes on
        first / count,
    ]
    lengths = length[:, None] == np.arange(1, LONGEST + 1)
    return np.concatenate([np.stack(plain, axis=1), lengths, asked.reshape(len(first), -1)], axis=1).astype(float)
