"""How near a sentence model puts the two texts of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Numbers
from tunelift.evaluation.embedded import Embedded
from tunelift.evaluation.measures.base import MEASURES, Compute
from tunelift.evaluation.rows import Found
from tunelift.tasks.sentence_embedding import said_texts


class Similarity(Embedded):
    """The cosine of an item's two texts is the prediction; of a text with a label, that with the label's name.

    The log-likelihood (nats) of a cosine is that of a normal distribution of variance 1 around it, up to a constant, at
    1, or at the score where there is one.
    """

    gives = frozenset({"numbers"})

    def begin(self) -> None:
        if self.plan.metrics and not all(isinstance(example.wanted, Numbers) for example in self.examples):
            raise InputError(
                f"There is no score of a pair that {self.plan.metrics[0].name} could be measured with.",
                fix="Name its column with data.label, or leave evaluate.metrics out.",
            )
        self.pairs = [_two(example) for example in self.examples]
        super().begin()

    def said(self) -> list[list[str]]:
        return self.pairs

    def key(self, i: int) -> Any:
        return [[self.tokens[text].ids for text in self.pairs[i]], self.examples[i].completion]

    def prepared(self) -> Compute:
        return self._near

    def _near(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        texts = list(dict.fromkeys(text for i in some for text in self.pairs[i]))
        place, vectors = {text: at for at, text in enumerate(texts)}, self.vectors(texts)
        first, second = (vectors[[place[self.pairs[i][side]] for i in some]] for side in (0, 1))
        advance(len(some))
        cosines = dict(zip(some, (first * second).sum(dim=1).tolist(), strict=True))
        return {i: _of_cosine(self.examples[i], cosine) for i, cosine in cosines.items()}


def _two(example: Example) -> list[str]:
    return [example.prompt, example.completion] if example.wanted is None else said_texts(example)[:2]


def _of_cosine(example: Example, cosine: float) -> Found:
    at = example.wanted.values[0] if isinstance(example.wanted, Numbers) else 1.0
    return Found(format(cosine, ".9g"), -((cosine - at) ** 2) / 2, 1)


MEASURES.add("similarity", Similarity)
