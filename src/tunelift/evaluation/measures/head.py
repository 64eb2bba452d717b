"""What a classification head makes of each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunelift.core import progress
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.rows import Found, labelled
from tunelift.fast.classifying import ClassLogits
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded_inputs

ROWS_AT_ONCE = 64
"""Rows computed together at least; tokens are what limits them."""


class Head(Measure):
    """The class with the highest probability is the prediction; texts are cut to the length of training."""

    gives = frozenset({"label", "text", "likelihood", "label-probabilities"})

    def begin(self) -> None:
        tokens = [self.renderer.head_tokens(example) for example in self.examples]
        self.truncated = sum(t.truncated for t in tokens)
        if self.truncated:
            progress.note(f"{self.truncated} of {len(tokens)} texts were cut to {self.renderer.max_length} tokens.")
        self.prompts, self.segments = [t.ids for t in tokens], [t.segments for t in tokens]

    def length(self, i: int) -> int:
        return len(self.prompts[i])

    def key(self, i: int) -> Any:
        segments = self.segments[i]
        return [self.prompts[i], [], self.examples[i].completion, [], *([segments] if segments else [])]

    def how(self) -> Mapping[str, Any]:
        return {"label_scoring": labels_how(self.plan), "max_length": self.renderer.max_length}

    def noted(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    def prepared(self) -> Compute:
        return self._classified

    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        labels, pad = list(self.plan.labels), pad_id(self.model, self.tokenizer)
        rows, segments = [self.prompts[i] for i in some], [self.segments[i] for i in some]
        found = head_logits(self.model, rows, pad, self.plan.rows_at_once, advance, segments=segments)
        scores = found.log_softmax(dim=-1).tolist()
        return {
            i: labelled(self.examples[i].completion, dict(zip(labels, row, strict=True)), None, tokens=1)
            for i, row in zip(some, scores, strict=True)
        }


@torch.no_grad()
def head_logits(
    model: Any,
    rows: Sequence[Sequence[int]],
    pad_id: int,
    rows_at_once: int,
    advance: progress.Advance,
    *,
    segments: Sequence[Sequence[int] | None] = (),
) -> torch.Tensor:
    """Return what the head says of each row of token ids, in its order: (rows, classes) in fp64, on the CPU."""
    results: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    logits, types = ClassLogits(model, rows), segments or [None] * len(rows)
    for group in by_length([len(row) for row in rows], max(rows_at_once, ROWS_AT_ONCE)):
        inputs = padded_inputs([rows[i] for i in group], pad_id, model.device, [types[i] for i in group])
        for i, row in zip(group, logits(inputs).double().cpu(), strict=True):
            results[i] = row
        advance(len(group))
    return torch.stack(results)


MEASURES.add("head", Head)
