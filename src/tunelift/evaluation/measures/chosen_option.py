"""Which of its options a head finds likeliest for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.measures.head import head_logits
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, labelled
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.multiple_choice import encoded_options, options_in


class ChosenOption(Measure):
    """The option with the highest probability among those of its item is the prediction; texts are cut as in training.

    An item's log-likelihood (nats) is that of its right option.
    """

    gives = frozenset({"label", "text", "likelihood"})

    @classmethod
    def tells_probabilities(cls, plan: Plan) -> bool:
        return True

    def begin(self) -> None:
        self.rows = [encoded_options(example, self.renderer) for example in self.examples]
        self.truncated = sum(any(tokens.truncated for tokens in some) for some in self.rows)
        if self.truncated:
            progress.note(
                f"{self.truncated} of {len(self.rows)} items have texts that were cut to {self.renderer.max_length} "
                "tokens."
            )

    def length(self, i: int) -> int:
        return max(len(tokens.ids) for tokens in self.rows[i])

    def key(self, i: int) -> Any:
        rows = [[tokens.ids, tokens.segments] for tokens in self.rows[i]]
        return [rows, options_in(self.examples[i]).texts, self.examples[i].completion]

    def how(self) -> Mapping[str, Any]:
        return {"label_scoring": {"score": "head", "options": "of each item"}, "max_length": self.renderer.max_length}

    def noted(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    def prepared(self) -> Compute:
        return self._chosen

    def _chosen(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        rows, found = [tokens for i in some for tokens in self.rows[i]], dict[int, Found]()
        ids, segments = [tokens.ids for tokens in rows], [tokens.segments for tokens in rows]
        pad, at_once = pad_id(self.model, self.tokenizer), self.plan.rows_at_once
        logits = head_logits(self.model, ids, pad, at_once, _silent, segments=segments)[:, 0]
        ends = accumulate(len(self.rows[i]) for i in some)
        for i, end in zip(some, ends, strict=True):
            texts = options_in(self.examples[i]).texts
            scores = logits[end - len(texts) : end].log_softmax(dim=0).tolist()
            found[i] = labelled(self.examples[i].completion, dict(zip(texts, scores, strict=True)), None, tokens=1)
            advance(1)
        return found


def _silent(amount: int = 1, note: str = "") -> None:
    """Rows of options are no items: progress is told of those."""


MEASURES.add("chosen-option", ChosenOption)
