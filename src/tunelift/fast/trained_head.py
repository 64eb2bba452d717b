"""Cross-entropy behind a head that is trained itself, as in full fine-tuning: no logits of the whole vocabulary.

Forward it is that of a frozen head (`head.py`): the probabilities' mass, a tile of the vocabulary at a time. Backward
each tile's logits are made again, and give its part of the hidden states' gradient and its rows of the weight's. So
what is alive is a tile, and the gradients, which somebody needs. Where the head is tied to the embeddings, autograd
adds the two gradients of their weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunelift.fast.head import ROWS_AT_ONCE, TILE, Asked, Head, at_least_float32, over_vocabulary


def losses(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (nats) of each row, (N,), hidden (N, D) and targets (N,).

    Differentiable by hidden states, weight and bias.
    """
    found: Tensor = _Losses.apply(hidden, targets, head.weight, head.bias, head)  # type: ignore[no-untyped-call]
    return found


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
        mass = torch.empty(len(hidden), dtype=at_least_float32(hidden[:0]).dtype, device=hidden.device)
        own = torch.empty_like(mass)
        for rows in _rows(hidden):
            asked = Asked(torch.arange(len(hidden[rows]), dtype=torch.long, device=hidden.device), targets[rows])
            mass[rows] = over_vocabulary(head, hidden[rows], asked=asked)[0]
            own[rows] = head.of_plain(asked.plain).to(own.dtype)
        ctx.save_for_backward(hidden, targets, mass, weight, bias)
        ctx.head = head
        return mass - own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        hidden, targets, mass, weight, bias = ctx.saved_tensors
        times, kind, head = grad_outputs[0].to(mass.dtype), mass.dtype, ctx.head
        of_hidden = torch.zeros_like(hidden, dtype=kind)
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[3] else None
        for start in range(0, len(weight), TILE):
            tile = slice(start, start + TILE)
            part, its_bias = weight[tile], None if bias is None else bias[tile]
            of_part, of_its_bias = torch.zeros_like(part, dtype=kind), mass.new_zeros(len(part))
            for rows in _rows(hidden):
                slopes = _slopes(head.logits(hidden[rows], part, its_bias), mass[rows], targets[rows] - start, head)
                slopes = slopes.mul_(times[rows, None] * head.scale)
                of_its_bias += slopes.sum(dim=0)
                slopes = slopes.to(part.dtype)
                of_hidden[rows] += slopes @ part
                of_part += slopes.T @ hidden[rows]
            if of_weight is not None:
                of_weight[tile] = of_part
            if of_bias is not None:
                of_bias[tile] = of_its_bias
        return of_hidden.to(hidden.dtype), None, of_weight, of_bias, None


def _slopes(logits: Tensor, mass: Tensor, places: Tensor, head: Head) -> Tensor:
    """Return d loss / d plain logits (N, tile) but for the scale, of the tile's capped logits.

    `mass` (N,) is log Σ exp(logits) of the whole vocabulary, `places` (N,) where the targets are, counted in the tile.
    """
    slope = head.slope(logits)
    shares = (logits - mass[:, None]).exp_()
    inside = ((places >= 0) & (places < logits.shape[1])).nonzero().squeeze(-1)
    shares[inside, places[inside]] -= 1
    return shares if isinstance(slope, float) else shares.mul_(slope)


def _rows(hidden: Tensor) -> Iterator[slice]:
    for start in range(0, len(hidden), ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
