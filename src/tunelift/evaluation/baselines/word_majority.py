"""Each word with the tag that it has most often: what knowing the words of train is worth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tunelift.core.records import Example, Scores, Tags, Words
from tunelift.evaluation import predicting
from tunelift.evaluation.baselines.base import Given
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found


def misfit(plan: Plan, train: Sequence[Example]) -> str | None:
    """Say why a baseline that tags words does not suit the plan and the training rows, or return None."""
    if "tags" not in measure_for(plan).gives:
        return "it tags words, and no metric here is of tags"
    if not predicting.given_metrics(plan, likelihoods=False):
        return "tags without a probability give none of the metrics"
    return None if train else "there are no training rows"


def tagged_words(examples: Sequence[Example]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the words and the tags of each text."""
    for example in examples:
        assert isinstance(example.given, Words)
        assert isinstance(example.wanted, Tags)
        yield example.given.words, example.wanted.tags


class WordMajority:
    """Gives a word of train its most frequent tag there, and any other word the most frequent tag of all."""

    def __init__(self, given: Given) -> None:
        self.given, seen, every = given, defaultdict[str, Counter[str]](Counter), Counter[str]()
        for words, tags in tagged_words(given.train):
            every.update(tags)
            for word, tag in zip(words, tags, strict=True):
                seen[word.lower()][tag] += 1
        self.other = _first(every)
        self.tags = {word: _first(counts) for word, counts in seen.items()}
        self.description = (
            f'the tag that each word has most often in train, "{self.other}" for words that are not there'
        )

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return the scores of the words' own tags."""
        found = []
        for words, _ in tagged_words(examples):
            found.append(Found(" ".join(self.tags.get(w.lower(), self.other) for w in words), tokens=len(words)))
        made_by = self.given.made_by("word-majority", self.description)
        return predicting.predicted_rows(self.given.plan, made_by, examples, found, likelihoods=False)


def _first(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag))
