"""The likeliest token without the logits of all: products in eight bits say which tokens it can be.

A head over a large vocabulary is most of a small model, and who takes the likeliest token needs the right order at the
top and nothing else. How far a logit in eight bits can be from its own follows from what rounding left out of the
hidden state and of the token's weights (Cauchy and Schwarz); tokens that may be the largest by that have their logits
computed as they are. So the choice is the plain one, but for the order in which floats are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.fast import int8, kernels
from tunelift.fast.undo import without_cache

MOST = 2048
"""Candidates of a row at most; the logits of one with more are all computed as they are."""

TILE = 8192
"""Tokens whose weights are looked at together while the sizes are taken."""


class ScreenedHead:
    """A head's weight (V, D) in eight bits, with the size of each token's row and of what rounding left out of it.

    `seen` are hidden states (N, D): columns in which they are large are made smaller, and the weight's larger.
    """

    @torch.no_grad()
    def __init__(self, weight: Tensor, seen: Tensor) -> None:
        self.on = False
        weight = weight.detach()
        self.by = int8.shifted(weight, seen.abs().amax(dim=0))
        self.weight = int8.packed(weight, int8.GROUP, 1.0 / self.by)
        self.size, self.apart = (torch.empty(len(weight), dtype=torch.float32, device="cpu") for _ in range(2))
        for first in range(0, len(weight), TILE):
            tile = weight[first : first + TILE] / self.by
            self.size[first : first + TILE] = tile.norm(dim=1)
            self.apart[first : first + TILE] = (tile - self._rounded(first, len(tile))).norm(dim=1)

    def _rounded(self, first: int, count: int) -> Tensor:
        """Return rows of the weight as eight bits have them, (count, D)."""
        packed, lanes = self.weight, abs(kernels.library(torch.float32).int8_lanes())
        deep = packed.numbers.shape[1]
        numbers = packed.numbers.view(-1, deep // 4, lanes, 4)[first // lanes :][: -(-count // lanes)]
        own = numbers.transpose(1, 2).reshape(-1, deep)[:count, : packed.size].float()
        assert packed.scales is not None
        scales = packed.scales[:, first : first + count].t().repeat_interleave(packed.group, dim=1)
        return own * scales[:, : packed.size]

    def logits(self, x: Tensor, weight: Tensor, bias: Tensor | None, plain: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (N, V) of hidden states (N, D): each row's largest as it is, others maybe in eight bits.

        `plain` gives the logits as they are of rows whose likeliest token eight bits cannot narrow down.
        """
        scaled, rounded = x * self.by, torch.zeros_like(x)
        y = self._product(scaled, rounded, x.new_empty(len(x), self.weight.out), bias, add=False)
        left = list(range(len(x)))
        for last in (False, True):
            some = slice(None) if len(left) == len(x) else left  # all are not copied
            candidates = self._candidates(y[some], scaled[some], rounded[some])
            for row, tokens in zip(left, candidates, strict=True):
                if tokens is not None:
                    y[row, tokens] = F.linear(x[row], weight[tokens], None if bias is None else bias[tokens])
            left = [row for row, tokens in zip(left, candidates, strict=True) if tokens is None]
            if left and not last:  # what rounding left out of the hidden states is multiplied too
                near = rounded[left]
                y[left] = self._product(scaled[left], near, y[left], None, add=True)
                rounded[left] = near
        if left:
            y[left] = plain(x[left])
        return y

    def _product(self, x: Tensor, rounded: Tensor, y: Tensor, bias: Tensor | None, *, add: bool) -> Tensor:
        """Multiply in eight bits what hidden states (N, D) have beyond `rounded`, to which it is added; return y."""
        q, own = int8.in_eight_bits(x - rounded, self.weight)
        steps = own.repeat_interleave(self.weight.group, dim=1)[:, : self.weight.size]
        rounded += (q.float() - 128.0)[:, : self.weight.size] * steps
        return int8.times(q, own, self.weight, y, bias, add)

    def _candidates(self, y: Tensor, x: Tensor, rounded: Tensor) -> list[Tensor | None]:
        """Return the tokens that may be the largest by logits y (N, V), row by row; None where they are too many."""
        # What sums of floats may be off by, here and there, is put to both.
        summing = 2.0**-23 * (self.weight.size + 8) * x.norm(dim=1)
        of_row = torch.stack([(x - rounded).norm(dim=1) + summing, rounded.norm(dim=1)], dim=1)
        found = torch.zeros(len(y), MOST, dtype=torch.int32, device="cpu")
        counts = torch.empty(len(y), dtype=torch.int32, device="cpu")
        sizes = len(y), self.weight.out, MOST
        kernels.call(kernels.library(y.dtype), "likeliest", y, self.size, self.apart, of_row, found, counts, *sizes)
        usual = of_row.isfinite().all(dim=1).tolist()
        return [
            found[row, :count].long() if usual[row] and 0 < count <= MOST else None
            for row, count in enumerate(counts.tolist())
        ]


TEXT = "The meeting on 12 May 1997 was moved to Berlin, since three of five members had fallen ill (or so they said)."


@torch.no_grad()
def states_of_a_text(model: Any, tokenizer: Any) -> Tensor | None:
    """Return the hidden states (N, D) that a model's head is asked about for TEXT; None where it is not asked so."""
    seen = list[Tensor]()
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[:1]))
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]], dtype=torch.long, device="cpu")
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **without_cache(model))
    finally:
        hook.remove()
    return seen[-1].reshape(-1, seen[-1].shape[-1]).float() if seen else None


@contextmanager
def only_the_likeliest(head: ScreenedHead | None) -> Iterator[None]:
    """Let the calls inside have logits of which the largest of each row is right, and others only near."""
    if head is not None:
        head.on = True
    try:
        yield
    finally:
        if head is not None:
            head.on = False
