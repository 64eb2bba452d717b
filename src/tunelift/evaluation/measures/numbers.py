"""The numbers that a head gives for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.measures.base import MEASURES
from tunelift.evaluation.measures.head import Head, head_logits
from tunelift.evaluation.rows import Found, numbered
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.regression import named, values_of


class OutputsOfHead(Head):
    """A head's outputs are the prediction; texts are cut to the length of training.

    The log-likelihood (nats) is that of a normal distribution of variance 1 around them, up to a constant.
    """

    gives = frozenset({"numbers", "text", "likelihood"})

    def begin(self) -> None:
        super().begin()
        self.wanted = [values_of(example, self.plan.labels) for example in self.examples]

    def key(self, i: int) -> Any:
        return [*super().key(i), self.wanted[i]]

    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        rows, segments = [self.prompts[i] for i in some], [self.segments[i] for i in some]
        pad = pad_id(self.model, self.tokenizer)
        found = head_logits(self.model, rows, pad, self.plan.rows_at_once, advance, segments=segments).tolist()
        answers = {}
        for i, values in zip(some, found, strict=True):
            outputs = dict(zip(self.plan.labels, values, strict=True))
            answers[i] = numbered(
                self.examples[i], [outputs[name] for name in named(self.examples[i], self.plan.labels)]
            )
        return answers


MEASURES.add("numbers", OutputsOfHead)
