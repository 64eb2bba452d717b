"""Which of the labels a decoder is likeliest to write behind what an encoder read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.measures.base import MEASURES, Compute, labels_how
from tunelift.evaluation.measures.ranked_labels import enough_labels
from tunelift.evaluation.measures.written_likelihood import WrittenLikelihood
from tunelift.evaluation.rows import Found, labelled
from tunelift.tasks.sequence_to_sequence import read_and_written


class WrittenLabel(WrittenLikelihood):
    """The label that a model finds likeliest to write is the prediction."""

    gives = frozenset({"label", "text", "likelihood", "text-likelihood", "label-probabilities"})
    ranks = True

    def begin(self) -> None:
        super().begin()
        labels = enough_labels(self.plan.labels)
        self.labels = {label: read_and_written(self.examples[0], self.renderer, label).written.ids for label in labels}

    def how(self) -> Mapping[str, Any]:
        return {**super().how(), "label_scoring": labels_how(self.plan)}

    def prepared(self) -> Compute:
        return self._ranked

    def _ranked(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        lengths = {label: len(ids) for label, ids in self.labels.items()} if self.plan.label_score == "mean" else None
        found = {}
        for i in some:
            likely = self.likelihoods([(self.read[i], ids) for ids in self.labels.values()], _silent)
            scores = dict(zip(self.labels, likely, strict=True))
            found[i] = labelled(self.examples[i].completion, scores, lengths, len(self.written[i]))
            advance(1)
        return found


def _silent(amount: int = 1, note: str = "") -> None:
    """Labels are no items: progress is told of those."""


MEASURES.add("written-label", WrittenLabel)
