"""What a head makes of each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tunelift.core import progress
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure, labels_how
from tunelift.evaluation.rows import Found, labelled
from tunelift.tasks.image_classification import COUNTED_AS, picture_logits, picture_of, pixels


class PictureClass(Measure):
    """The class with the highest probability is the prediction."""

    gives = frozenset({"label", "text", "likelihood", "label-probabilities"})

    def begin(self) -> None:
        self.pictures = [picture_of(example) for example in self.examples]

    def length(self, i: int) -> int:
        return COUNTED_AS

    def key(self, i: int) -> Any:
        return [self.pictures[i].sha256, self.examples[i].completion]

    def how(self) -> Mapping[str, Any]:
        return {"label_scoring": labels_how(self.plan)}

    def prompt(self) -> Any:
        return [picture.sha256 for picture in self.pictures]

    def prepared(self) -> Compute:
        return self._classified

    @torch.no_grad()
    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        labels, found = list(self.plan.labels), dict[int, Found]()
        for start in range(0, len(some), self.plan.rows_at_once):
            items = some[start : start + self.plan.rows_at_once]
            inputs = pixels(self.tokenizer, [self.pictures[i] for i in items], self.model.device)
            scores = picture_logits(self.model, inputs).double().log_softmax(dim=-1).tolist()
            for i, row in zip(items, scores, strict=True):
                found[i] = labelled(self.examples[i].completion, dict(zip(labels, row, strict=True)), None, tokens=1)
            advance(len(items))
        return found


MEASURES.add("picture-class", PictureClass)
