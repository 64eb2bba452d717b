"""The texts of items, each once, and the vectors that a sentence model makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.data.render import Tokens
from tunelift.evaluation.batching import by_length
from tunelift.evaluation.measures.base import Measure
from tunelift.model_facts.anatomy import pad_id
from tunelift.model_facts.pooling import pooling_of
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.sentence_embedding import Vectors, tokens_of

ROWS_AT_ONCE = 64


class Embedded(Measure):
    """The texts of all items, each once, as tokens."""

    def begin(self) -> None:
        texts = dict.fromkeys(text for texts in self.said() for text in texts)
        own = pooling_of(self.tokenizer).max_length or self.renderer.max_length
        self.longest = min(own, self.renderer.max_length)
        tokens = tokens_of(self.tokenizer, list(texts), self.longest)
        self.tokens: Mapping[str, Tokens] = dict(zip(texts, tokens, strict=True))
        self.truncated = sum(own.truncated for own in tokens)
        if self.truncated:
            progress.note(f"{self.truncated} of {len(tokens)} texts were cut to {self.longest} tokens.")

    def said(self) -> list[list[str]]:
        """Return the texts of each item."""
        raise NotImplementedError

    def length(self, i: int) -> int:
        return max(len(self.tokens[text].ids) for text in self.said()[i])

    def how(self) -> Mapping[str, Any]:
        return {"max_length": self.longest, "pooling": [*pooling_of(self.tokenizer).modes]}

    def noted(self) -> Mapping[str, Any]:
        return {"truncated": self.truncated}

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], advance: progress.Advance = lambda _: None) -> Tensor:
        """Return the texts' vectors of length 1, (texts, D) in fp64 on the CPU."""
        rows, pad = [self.tokens[text].ids for text in texts], pad_id(self.model, self.tokenizer)
        found, embed = [torch.empty(0)] * len(rows), Vectors(self.model, rows)
        for group in by_length([len(row) for row in rows], max(self.plan.rows_at_once, ROWS_AT_ONCE)):
            inputs = padded_inputs([rows[i] for i in group], pad, self.model.device)
            for i, vector in zip(group, embed(inputs).double().cpu(), strict=True):
                found[i] = vector
            advance(len(group))
        return torch.nn.functional.normalize(torch.stack(found), dim=1)
