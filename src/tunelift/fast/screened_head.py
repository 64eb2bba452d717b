"""The likeliest token without the logits of all: products in eight bits say which tokens it can be.

A head over a large vocabulary is most of a small model, and who takes the likeliest token needs the right order at the
top and nothing else. How far a logit in eight bits can be from its own follows from what rounding left out of the
hidden state and of the token's weights (Cauchy and Schwarz); tokens that may be the largest by that have their logits
computed as they are. So the choice is the plain one, but for the order in which floats are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.fast import int8, kernels

MOST = 2048
"""Candidates of a row at most; the logits of one with more are all computed as they are."""

TILE = 8192
"""Tokens whose weights are looked at together while the sizes are taken."""


class ScreenedHead:
    """A head's weight (V, D) in eight bits, with the size of each token's row and of what rounding left out of it."""

    @torch.no_grad()
    def __init__(self, weight: Tensor) -> None:
        self.on = False
        self.weight = int8.packed(weight, int8.GROUP)
        wide = [(tile, tile - self._rounded(first, len(tile))) for first, tile in _tiles(weight.detach())]
        self.size, self.apart = (torch.cat([pair[i].norm(dim=1) for pair in wide]) for i in (0, 1))

    def _rounded(self, first: int, count: int) -> Tensor:
        """Return rows of the weight as eight bits have them, (count, D)."""
        packed, lanes = self.weight, abs(kernels.library(torch.float32).int8_lanes())
        deep = packed.numbers.shape[1]
        numbers = packed.numbers.view(-1, deep // 4, lanes, 4)[first // lanes :][: -(-count // lanes)]
        own = numbers.transpose(1, 2).reshape(-1, deep)[:count, : packed.size].float()
        assert packed.scales is not None
        scales = packed.scales[:, first : first + count].t().repeat_interleave(packed.group, dim=1)
        return own * scales[:, : packed.size]

    def logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return logits (N, V) of hidden states (N, D): each row's largest as it is, others maybe in eight bits."""
        q, own = int8.in_eight_bits(x, self.weight)
        y = int8.times(q, own, self.weight, x.new_empty(len(x), self.weight.out), bias)
        rounded = (q.float() - 128.0)[:, : self.weight.size]
        rounded *= own.repeat_interleave(self.weight.group, dim=1)[:, : self.weight.size]
        # What sums of floats may be off by, here and there, is put to both.
        summing = 2.0**-23 * (self.weight.size + 8) * x.norm(dim=1)
        of_row = torch.stack([(x - rounded).norm(dim=1) + summing, rounded.norm(dim=1)], dim=1)
        found = torch.empty(len(x), MOST, dtype=torch.int32, device="cpu")
        counts = torch.empty(len(x), dtype=torch.int32, device="cpu")
        sizes = len(x), self.weight.out, MOST
        kernels.call(kernels.library(y.dtype), "likeliest", y, self.size, self.apart, of_row, found, counts, *sizes)
        usual = of_row.isfinite().all(dim=1).tolist()
        for row, count in enumerate(counts.tolist()):
            if not usual[row] or not 0 < count <= MOST:
                y[row] = F.linear(x[row], weight, bias)
                continue
            tokens = found[row, :count].long()
            y[row, tokens] = F.linear(x[row], weight[tokens], None if bias is None else bias[tokens])
        return y


def _tiles(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    for first in range(0, len(weight), TILE):
        yield first, weight[first : first + TILE]


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
