"""What a classification head makes of each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.heads import label_log_probabilities
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.rows import Found, labelled
from tunelift.model_facts.anatomy import pad_id


class Head(Measure):
    """The class with the highest probability is the prediction; texts are cut to the length of training."""

    gives = frozenset({"label", "text", "likelihood"})

    def begin(self) -> None:
        tokens = [self.renderer.head_tokens(example) for example in self.examples]
        self.truncated = sum(t.truncated for t in tokens)
        if self.truncated:
            progress.note(f"{self.truncated} of {len(tokens)} texts were cut to {self.renderer.max_length} tokens.")
        self.prompts = [t.ids for t in tokens]

    def length(self, i: int) -> int:
        return len(self.prompts[i])

    def key(self, i: int) -> Any:
        return [self.prompts[i], [], self.examples[i].completion, []]

    def how(self) -> Mapping[str, Any]:
        return {"label_scoring": labels_how(self.plan), "max_length": self.renderer.max_length}

    def noted(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    def prepared(self) -> Compute:
        return self._classified

    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        labels, pad = list(self.plan.labels), pad_id(self.model, self.tokenizer)
        rows = [self.prompts[i] for i in some]
        scores = label_log_probabilities(self.model, rows, pad, self.plan.rows_at_once, advance)
        return {
            i: labelled(self.examples[i].completion, dict(zip(labels, row, strict=True)), None, tokens=1)
            for i, row in zip(some, scores, strict=True)
        }


MEASURES.add("head", Head)
