"""Cross-entropy behind a frozen head, with the gradient made in the forward pass and logits never kept.

With frozen weights W the gradient is d loss / d hidden = softmax(hidden Wᵀ) W - W[target]: attention over the
vocabulary. One pass of online softmax over tiles of the vocabulary gives loss and gradient. Where a tile holds next to
nothing of a row's probability, its part of the second product is left out (the idea of Cut Cross-Entropy's gradient
filtering, arXiv 2411.09009). With likely tokens in the first tiles most parts are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunelift.fast import kernels
from tunelift.fast.blocks import Blocks
from tunelift.fast.frozen import linear, product
from tunelift.fast.int8 import Int8Tiles

TILE = 4096
"""Vocabulary entries at once: with 1,024 rows 16 MB of logits."""

ROWS_AT_ONCE = 1024

ORDERED_BY = 64
"""Hidden states that are asked which tokens are likely."""

LIKELY = 4 * TILE
"""Tokens that are taken out of the order and come first: a copy of so many rows of the weight."""

SKIPPED_BELOW = 1e-4
"""A tile with a smaller share of a row's probability is left out of that row's gradient. All that is left out of a row
is below this times the number of tiles; measured on a real model the gradient changes by 4e-4 of its size."""


class Tile(NamedTuple):
    """Weight (tile, D) and bias (tile,) of some tokens, which of them came before (tile,), and the first one's id.

    Tokens that are in no order have no first.
    """

    weight: Tensor
    bias: Tensor | None
    taken: Tensor | None
    start: int | None


class Asked:
    """Tokens (E,), each after one of the rows, whose logits are wanted: read from those that the mass is made of.

    In half precision a sum of their own would round otherwise, and a probability could come out above 1.
    """

    def __init__(self, rows: Tensor, tokens: Tensor) -> None:
        self.tokens, self.order = tokens.sort()
        self.rows = rows[self.order]
        self.sorted = self.tokens.tolist()  # most tiles have none, which a list tells without a pass over the tokens
        self.plain = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)

    def read(self, logits: Tensor, start: int | None) -> None:
        """Take what a tile's plain logits (N, tile) hold of them."""
        if start is None:
            return
        first, last = (bisect_left(self.sorted, token) for token in (start, start + logits.shape[1]))
        if first < last:
            self.plain = self.plain.to(torch.promote_types(logits.dtype, torch.float32))
            found = logits[self.rows[first:last], self.tokens[first:last] - start]
            self.plain[self.order[first:last]] = found.to(self.plain.dtype)


@dataclass(slots=True)
class Head:
    """A frozen linear head: weight (V, D), bias (V,) or None; logits are scaled, then soft-capped.

    A weight in blocks is widened a tile at a time.
    `skip_below` 0 computes all of the gradient. `likely_first` holds weight and bias of likely tokens, once those are
    known, and which tokens of the vocabulary (V,) they are; `kept` and `pairs` count the (row, tile) pairs whose part
    of the gradient was computed, and all that there were. With `eight` products are in eight bits.
    """

    weight: Tensor | Blocks
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    skip_below: float = SKIPPED_BELOW
    likely_first: tuple[Tensor, Tensor | None, Tensor] | None = field(default=None, repr=False)
    kept: int = 0
    pairs: int = 0
    eight: Int8Tiles | None = None

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy (nats) of each row, (N,), hidden (N, D) and targets (N,); differentiable."""
        losses: Tensor = _Losses.apply(hidden, targets, self)  # type: ignore[no-untyped-call]
        return losses

    def loss_sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of `losses`."""
        return self.losses(hidden, targets).sum()

    @torch.no_grad()
    def order_by(self, hidden: Tensor) -> None:
        """Let those tokens come first that are likely after these hidden states (N, D)."""
        hidden = hidden[:: -(-len(hidden) // ORDERED_BY)]
        if len(self.weight) <= LIKELY:
            return
        means = [self.logits(hidden, weight, bias).mean(dim=0) for weight, bias, *_ in self.tiles(likely_first=False)]
        order = torch.argsort(torch.cat(means), descending=True)[:LIKELY]
        taken = torch.zeros(len(self.weight), dtype=torch.bool, device=order.device)
        taken[order] = True
        self.likely_first = self.weight[order], None if self.bias is None else self.bias[order], taken

    def tiles(self, likely_first: bool) -> Iterator[Tile]:
        """Yield the tiles, those of likely tokens first if it is asked for."""
        taken = None
        if likely_first and self.likely_first is not None:
            weight, bias, taken = self.likely_first
            yield from (tile._replace(start=None) for tile in _cut(weight, bias, None))
        yield from _cut(self.weight, self.bias, taken)

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return capped logits (N, tile) in fp32 at least."""
        return self.of_plain(linear(hidden, weight, bias))

    def of_plain(self, logits: Tensor) -> Tensor:
        """Return what plain logits are once scaled and capped, in fp32 at least; in fp32 they are scaled in place."""
        logits = at_least_float32(logits)
        return capped(logits if self.scale == 1.0 else logits.mul_(self.scale), self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Return d capped logits / d plain ones, less the scale."""
        return 1.0 if self.softcap is None else 1 - (logits / self.softcap) ** 2


def _cut(weight: Tensor | Blocks, bias: Tensor | None, taken: Tensor | None) -> Iterator[Tile]:
    for start in range(0, len(weight), TILE):
        tile = slice(start, start + TILE)
        yield Tile(weight[tile], None if bias is None else bias[tile], None if taken is None else taken[tile], start)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
        losses = torch.empty(len(hidden), dtype=at_least_float32(hidden[:0]).dtype, device=hidden.device)
        # In float16 it could neither be this small nor be scaled, as the loss then is, before it is this large.
        kind = torch.float32 if hidden.dtype == torch.float16 else hidden.dtype
        gradient = torch.empty_like(hidden, dtype=kind) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            some = hidden[rows]
            asked = Asked(torch.arange(len(some), dtype=torch.long, device=hidden.device), targets[rows])
            log_mass, _, expected = over_vocabulary(head, some, gradient is not None, asked)
            own = head.of_plain(asked.plain)
            losses[rows] = log_mass - own
            if gradient is not None:
                slope = torch.as_tensor(head.slope(own), dtype=own.dtype, device=own.device).reshape(-1, 1)
                expected -= slope * head.weight[targets[rows]]
                gradient[rows] = expected.mul_(head.scale)
        ctx.save_for_backward(gradient)
        ctx.kind = hidden.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0][:, None].to(gradient.dtype)).to(ctx.kind), None, None


def over_vocabulary(
    head: Head, hidden: Tensor, gradient: bool = False, asked: Asked | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log Σ exp(logits) and the highest logit, each (N,), and for the gradient what the head is expected to be.

    That is Σ softmax(logits) · slope · W, (N, D), less the parts that are skipped. What is `asked` is read meanwhile.
    """
    kind = at_least_float32(hidden[:0]).dtype
    highest = torch.full((len(hidden), 1), -torch.inf, dtype=kind, device=hidden.device)
    mass = torch.zeros_like(highest)
    sums = torch.zeros_like(hidden, dtype=kind) if gradient else hidden[:0]
    for weight, bias, taken, start in head.tiles(likely_first=gradient):
        eight = head.eight.of(weight, hidden) if head.eight else None
        if eight is None:
            logits = linear(hidden, weight, bias)
        else:
            logits = eight.of(hidden) if bias is None else eight.of(hidden).add_(bias)
        if asked is not None:
            asked.read(logits, start)
        shares, fall, part = _tile(head, logits, taken, (highest, mass), gradient)
        if gradient:
            times = eight.back if head.eight and eight and head.eight.back else partial(product, weight=weight)
            _add(head, sums.mul_(fall), shares.to(weight.dtype), times, part)
    return (highest + mass.log()).squeeze(-1), highest.squeeze(-1), sums.div_(mass) if gradient else sums


def _tile(
    head: Head, logits: Tensor, taken: Tensor | None, sums: tuple[Tensor, Tensor], gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the highest logit and the mass (N, 1) up to date with a tile's plain logits (N, tile), which are lost.

    What is `taken` (tile,) counts for nothing. Returns exp(logit - highest) times the slope of the cap (N, tile), by
    how much what was summed before is to be scaled, and the tile's part of the mass so far, (N, 1) each.
    """
    highest, mass = sums
    functions = kernels.of(logits) if logits.is_contiguous() else None
    if functions is not None and mass.dtype == torch.float32:
        fall, part = torch.empty_like(mass), torch.empty_like(mass)
        how = *logits.shape, head.scale, head.softcap or 0.0, gradient
        kernels.call(functions, "tile_softmax", logits, taken, highest, mass, fall, part, *how)
        return logits, fall, part
    logits = head.of_plain(logits)
    slope = head.slope(logits) if gradient else 1.0
    if taken is not None:
        logits.masked_fill_(taken, -torch.inf)
    top = torch.maximum(highest, logits.amax(dim=-1, keepdim=True))
    fall = (highest - top).exp_()
    shares = logits.sub_(top).exp_()
    part = shares.sum(dim=-1, keepdim=True)
    mass.mul_(fall).add_(part)
    highest.copy_(top)
    return shares if isinstance(slope, float) else shares.mul_(slope), fall, part / mass


def _add(head: Head, sums: Tensor, shares: Tensor, times: Callable[[Tensor], Tensor], share_of_row: Tensor) -> None:
    """Add shares (N, tile) `times` the weight (tile, D) to sums, for the rows of which this tile may hold enough.

    `share_of_row` (N, 1) is the tile's part of the mass seen so far, which is no less than its part of the whole.
    """
    kept = (share_of_row.squeeze(-1) >= head.skip_below).nonzero().squeeze(-1)
    head.kept, head.pairs = head.kept + len(kept), head.pairs + len(sums)
    if len(kept) == len(sums):
        sums.add_(times(shares))
    elif len(kept):
        sums.index_add_(0, kept, times(shares[kept]).to(sums.dtype))


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return logits soft-capped as Gemma 2 does."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()
