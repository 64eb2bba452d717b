"""How likely a model finds the tokens of a text that were hidden from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from tunelift.core import progress
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import MEASURES, Compute, Measure
from tunelift.evaluation.rows import Found
from tunelift.fast.classifying import ClassLogits
from tunelift.fast.targets import IGNORED
from tunelift.model_facts.anatomy import pad_id
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.masked_lm import HIDDEN, SHARE, masked_rows

TOKENS_AT_ONCE = 1024
"""Each has a number for every token of the vocabulary."""


class Masked(Measure):
    """An item's log-likelihood (nats) is that of the tokens that are asked for, over all rows that its text makes."""

    gives = frozenset({"likelihood"})

    def begin(self) -> None:
        self.rows = [masked_rows(e.completion, self.tokenizer, self.renderer.max_length) for e in self.examples]
        self.fitting = [i for i, rows in enumerate(self.rows) if rows]

    def length(self, i: int) -> int:
        return max((len(row.ids) for row in self.rows[i]), default=0)

    def key(self, i: int) -> Any:
        return [[list(row.ids), row.labels] for row in self.rows[i]]

    def how(self) -> Mapping[str, Any]:
        return {"max_length": self.renderer.max_length, "masking": {"share": SHARE, "hidden": HIDDEN}}

    def prompt(self) -> Any:
        return [[list(row.ids) for row in rows] for rows in self.rows]

    def prepared(self) -> Compute:
        return partial(self._likely, ClassLogits(self.model, [row.ids for i in self.fitting for row in self.rows[i]]))

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        nothing = {"metrics": {}, "unscored": "no token to ask for"}
        return nothing if found is None else super().row(i, found)

    @torch.no_grad()
    def _likely(self, logits: ClassLogits, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        rows = [(i, row) for i in some for row in self.rows[i]]
        found, pad = {i: Found(None, 0.0) for i in some}, pad_id(self.model, self.tokenizer)
        for group in by_length([len(row.ids) for _, row in rows], self.plan.rows_at_once, TOKENS_AT_ONCE):
            said = logits(padded_inputs([rows[at][1].ids for at in group], pad, self.model.device))
            for at, own in zip(group, said, strict=True):
                i, row = rows[at]
                places = [place for place, label in enumerate(row.labels) if label != IGNORED]
                wanted = torch.tensor([row.labels[place] for place in places], device=own.device)
                likely = own[places].double().log_softmax(dim=-1).gather(1, wanted[:, None])
                found[i].log_likelihood = (found[i].log_likelihood or 0.0) + float(likely.sum())
                found[i].tokens += len(places)
        advance(len(some))
        return found


MEASURES.add("masked", Masked)
