"""The labels that a head finds to apply to each text, none to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.measures.base import MEASURES
from tunelift.evaluation.measures.head import Head, head_logits
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, label_set
from tunelift.metrics.label_sets import NEUTRAL
from tunelift.model_facts.anatomy import pad_id


class LabelsOfHead(Head):
    """The labels with at least the plan's threshold as their probability are the prediction.

    A label's probability is the sigmoid of its output. Texts are cut to the length of training.
    """

    gives = frozenset({"label-set", "label-probabilities", "text", "likelihood"})

    @classmethod
    def tells_probabilities(cls, plan: Plan) -> bool:
        return any(metric.name == "average_precision" for metric in plan.metrics)

    def noted(self) -> Mapping[str, Any]:
        return {**super().noted(), "threshold": self.threshold}

    @property
    def threshold(self) -> float:
        """The probability from which a label applies."""
        return NEUTRAL if self.plan.threshold is None else self.plan.threshold

    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        rows, segments = [self.prompts[i] for i in some], [self.segments[i] for i in some]
        pad = pad_id(self.model, self.tokenizer)
        logits = head_logits(self.model, rows, pad, self.plan.rows_at_once, advance, segments=segments)
        found = [dict(zip(self.plan.labels, row, strict=True)) for row in logits.sigmoid().tolist()]
        return {i: label_set(self.examples[i], row, NEUTRAL) for i, row in zip(some, found, strict=True)}

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        if found is None:
            return super().row(i, None)
        known = found.log_likelihood
        found = label_set(self.examples[i], found.label_scores, self.threshold)
        found.log_likelihood = known
        return super().row(i, found)


MEASURES.add("label-set", LabelsOfHead)
