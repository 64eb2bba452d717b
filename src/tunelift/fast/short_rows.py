"""Attention of short blocks as plain matrix products, all blocks of a layer in one function.

The fused attention of torch is made for long rows: on a CPU its backward over rows of some hundred tokens takes longer
than the products it consists of (benchmarks/ablation.py shows by how much). Here blocks that attend
to the same others are computed together, those of some tokens padded to the longest, and the shares of attention are
kept for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tunelift.fast.head import at_least_float32
from tunelift.fast.layout import Layout

if TYPE_CHECKING:
    from tunelift.fast.attention import Rule

SCORES_AT_MOST = 2**19
"""Scores (heads times queries times keys) of one block; above, torch's own attention is as fast, and keeps less."""

PADDED_BELOW = 64
"""Tokens of a block below which calls cost more than the padding that spares them."""

ALIKE_WITHIN = 32
"""Tokens by which the lengths of blocks that are computed together may differ."""

SMALLEST_HEAD = {torch.bfloat16: 32, torch.float32: 64, torch.float64: 64}
"""Sizes of heads below which torch's own attention is the faster one."""


@dataclass(frozen=True, slots=True)
class Group:
    """R blocks computed together: where each lies in the packed row, and the blocks before, which all of them see.

    `own` (R, n) and `seen` (R, c) are the places of the tokens that ask and that are asked, padded with place 0;
    `hidden` (R, 1, 1, n, c) is true where a token is not seen, `padding` (R, 1, 1, n, 1) where there is none that asks.
    """

    rows: list[slice]
    before: list[slice]
    own: Tensor
    seen: Tensor
    hidden: Tensor
    padding: Tensor


def suits(query: Tensor, rule: Rule, options: dict[str, Any]) -> bool:
    """Tell whether these blocks are to be computed here: on the CPU, for a gradient, and all of them short."""
    layout = rule.layout
    unknown = layout.past or layout.keep or layout.computed or options.get("softcap")
    if unknown or not query.requires_grad or query.device.type != "cpu":
        return False
    lengths = [block.stop - block.start for block in layout.blocks]
    return query.shape[3] >= SMALLEST_HEAD.get(query.dtype, 2**31) and all(
        block.sees is None and query.shape[1] * n * (n + sum(lengths[b] for b in block.before)) <= SCORES_AT_MOST
        for block, n in zip(layout.blocks, lengths, strict=True)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, rule: Rule, options: dict[str, Any]) -> Tensor:
    """Attend block by block: query (1, H, N, d), key and value (1, G, N, d) with G dividing H -> (1, N, H, d)."""
    scale, dropout = options.get("scaling") or query.shape[3] ** -0.5, options.get("dropout") or 0.0
    found: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query[0], key[0], value[0], rule.groups(), (scale, dropout)
    )
    return found[None]


def grouped(layout: Layout, mask: Callable[[int], Tensor]) -> list[Group]:
    """Return the groups of a layout's blocks; `mask(number)` (n, c) says what each token of a block sees."""
    together: dict[tuple[Any, ...], list[int]] = {}
    for number, block in enumerate(layout.blocks):
        n = block.stop - block.start
        alike = -(-n // ALIKE_WITHIN) if n < PADDED_BELOW else -number
        together.setdefault((block.before, alike), []).append(number)
    return [_group(layout, numbers, mask) for numbers in together.values()]


def _group(layout: Layout, numbers: Sequence[int], mask: Callable[[int], Tensor]) -> Group:
    blocks = [layout.blocks[number] for number in numbers]
    before = [layout.blocks[b] for b in blocks[0].before]
    width, shared = max(block.stop - block.start for block in blocks), sum(b.stop - b.start for b in before)
    own, padding = torch.zeros(len(blocks), width, dtype=torch.long), torch.ones(len(blocks), width, dtype=torch.bool)
    seen = torch.zeros(len(blocks), shared + width, dtype=torch.long)
    seen[:, :shared] = torch.tensor(layout.places(*blocks[0].before))
    hidden = torch.ones(len(blocks), width, shared + width, dtype=torch.bool)
    # Tokens of padding see themselves, so that their shares, of which nothing is used, are numbers.
    hidden[:, :, shared:] = ~torch.eye(width, dtype=torch.bool)
    for i, (number, block) in enumerate(zip(numbers, blocks, strict=True)):
        n = block.stop - block.start
        own[i, :n] = seen[i, shared : shared + n] = torch.arange(block.start, block.stop)
        hidden[i, :n, : shared + n] = ~mask(number)
        padding[i, :n] = False
    rows, shared_rows = ([slice(b.start, b.stop) for b in some] for some in (blocks, before))
    return Group(rows, shared_rows, own, seen, hidden[:, None, None], padding[:, None, None, :, None])


class _Attention(torch.autograd.Function):
    """query (H, N, d), key and value (G, N, d) -> (N, H, d)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: list[Group], how: Any) -> Tensor:
        scale, dropout = how
        found = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        kept = []
        for group in groups:
            q, k, v = _queries(query, group, len(key)), _keys(key, group), _keys(value, group)
            # Scores in fp32 as fused attention has them: rounded to bfloat16 their shares would be far off.
            scores = (at_least_float32(q) @ at_least_float32(k).transpose(2, 3)).mul_(scale)  # (R, G, H/G * n, c)
            _by_token(scores, group).masked_fill_(group.hidden, -torch.inf)
            shares = torch.softmax(scores, dim=-1).to(q.dtype)
            factors = dropout_factors(shares, dropout) if dropout else None
            _put(found.transpose(0, 1), (shares if factors is None else shares * factors) @ v, group)
            kept += [shares] if factors is None else [shares, factors]
        ctx.save_for_backward(query, key, value, found, *kept)
        ctx.groups, ctx.scale = groups, scale
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, found, *kept = ctx.saved_tensors
        gradient = gradients[0].transpose(0, 1)  # (H, N, d)
        dq = torch.empty_like(query)
        dk, dv = torch.zeros_like(key), torch.zeros_like(value)
        # What the softmax of each query takes off: Σ shares * d shares, (H, N, 1).
        inner = at_least_float32(gradients[0] * found).sum(dim=-1).t()[..., None]
        each = len(kept) // len(ctx.groups)
        for group, shares, factors in zip(ctx.groups, kept[::each], kept[each - 1 :: each], strict=True):
            q, k, v = _queries(query, group, len(key)), _keys(key, group), _keys(value, group)
            g, taken_off = (_queries(x, group, len(key)) for x in (gradient, inner))
            if len(group.rows) > 1:  # what stands at padding belongs to another token
                _by_token(g, group).masked_fill_(group.padding, 0)
            dshares = g @ v.transpose(2, 3)
            if each == 1:
                _add(dv, shares.transpose(2, 3) @ g, group)
            else:
                _add(dv, (shares * factors).transpose(2, 3) @ g, group)
                dshares.mul_(factors)
            ds = dshares.sub(taken_off).mul_(shares).mul_(ctx.scale).to(q.dtype)
            _put(dq, ds @ k, group)
            _add(dk, ds.transpose(2, 3) @ q, group)
        return dq, dk, dv, None, None


def _queries(x: Tensor, group: Group, groups: int) -> Tensor:
    """Return what x (H, N, d) has at a group's own tokens, heads that share keys as one run: (R, G, H/G * n, d)."""
    taken = x[:, group.rows[0]][:, None] if len(group.rows) == 1 else x[:, group.own]  # (H, R, n, d)
    count, width, size = taken.shape[1:]
    return taken.reshape(groups, -1, count, width, size).permute(2, 0, 1, 3, 4).reshape(count, groups, -1, size)


def _keys(x: Tensor, group: Group) -> Tensor:
    """Return what x (G, N, d) has at the tokens a group sees, (R, G, c, d)."""
    alone = len(group.rows) == 1 and not group.before
    return x[None, :, group.rows[0]] if alone else x[:, group.seen].transpose(0, 1)


def _by_token(x: Tensor, group: Group) -> Tensor:
    """Return x (R, G, H/G * n, ...) as (R, G, H/G, n, ...)."""
    return x.view(*x.shape[:2], -1, group.own.shape[1], x.shape[3])


def _put(into: Tensor, found: Tensor, group: Group) -> None:
    """Write a group's (R, G, H/G * n, d) to its places in (H, N, d)."""
    for row, own in zip(group.rows, _by_token(found, group).flatten(1, 2), strict=True):
        into[:, row] = own[:, : row.stop - row.start]


def _add(into: Tensor, found: Tensor, group: Group) -> None:
    """Add what a group found for the tokens it sees, (R, G, c, d), at their places in (G, N, d)."""
    start = 0
    for block in group.before:
        stop = start + block.stop - block.start
        into[:, block] += found[:, :, start:stop].sum(dim=0)
        start = stop
    for row, own in zip(group.rows, found, strict=True):
        into[:, row] += own[:, start : start + row.stop - row.start]


def dropout_factors(like: Tensor, p: float) -> Tensor:
    """Return what dropout multiplies each element by: 0 with probability p (to 16 bits), else what makes up for it.

    One random number of 64 bits serves four elements, where torch draws one for each.
    """
    dropped = round(p * 2**16)
    if dropped == 2**16:
        return torch.zeros_like(like)
    random = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = (random[: like.numel()] >= dropped - 2**15).view(like.shape)
    return kept.to(like.dtype).mul_(2**16 / (2**16 - dropped))
