"""Attention of all blocks of a packed row in one call of the kernels (attention.c).

The fused attention of torch is made for long rows: over rows of some hundred tokens its backward takes longer than the
products it consists of (benchmarks/ablation.py shows by how much), and packed rows need a call for each block. Here
scores are kept in the processor's cache, the softmax is the plain one, and the way back computes it again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunelift.fast import kernels
from tunelift.fast.packed_rows import PackedRow

SCORES_AT_MOST = 2**27
"""Scores (heads times queries times keys) of one block; above, the buffers of the way back take too much memory."""

COLUMNS = 16
"""Segments begin at multiples of so many columns, and sizes of heads are multiples of it (attention.c)."""

SEES_AT_MOST = 64

STRIP = 48
"""Heads of queries to one of keys that a task of one query takes at most (attention.c)."""

ROWS_OF_A_TASK = 256
"""Queries times heads of a task, so that the blocks of a small batch are work for several threads."""

TASKS_OF_A_BLOCK = 16


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who attends to whom, as attention.c reads it: its tables, and how many columns there are in all.

    The last `lying` segments are those of blocks of one query, which the way back cannot do: they have no columns.
    """

    tables: dict[str, Tensor]
    columns: int
    widest: int
    buffered: int
    queries: int
    keys: int
    lying: int = 0


class _PlanStruct(ctypes.Structure):
    """The struct of attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("segments", "blocks", "sees", "tasks", "seen")),
        *((name, ctypes.c_int64) for name in ("segment_count", "task_count", "columns", "widest", "buffered")),
        *((name, ctypes.c_int64) for name in ("heads", "groups", "size", "tokens", "seed")),
        *((f"{name}_{by}", ctypes.c_int64) for name in ("query", "key", "value") for by in ("head", "token")),
        *((name, ctypes.c_double) for name in ("scale", "drop")),
    )


FEW_PRODUCTS = 2**18
"""Products of queries with keys that one thread makes in the time in which another wakes."""


def suits(query: Tensor, key: Tensor, value: Tensor, most: tuple[int, int], options: dict[str, Any]) -> bool:
    """Tell whether blocks that come to so much at `most` are to be computed here."""
    if options.get("softcap") is not None or not 0 <= (options.get("dropout") or 0.0) < 1:
        return False
    if not _alike(query, key, value) or kernels.of(query, key, value) is None:
        return False
    blocks, scores = most
    return blocks <= SEES_AT_MOST and query.shape[1] * scores <= SCORES_AT_MOST


def most_of(packed_row: PackedRow) -> tuple[int, int]:
    """Return how many blocks one attends to at most, the past's and its own with them, and to how many scores."""
    past = packed_row.past.tokens if packed_row.past else 0
    lengths = [block.stop - block.start for block in packed_row.blocks]
    scores = (
        n * (past + n + sum(lengths[b] for b in block.before))
        for block, n in zip(packed_row.blocks, lengths, strict=True)
    )
    return max(len(block.before) + 2 for block in packed_row.blocks), max(scores)


def _alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Tell whether one row is asked, and heads of queries, keys and values are of one width that the kernels take."""
    if not query.dim() == key.dim() == value.dim() == 4 or key.shape != value.shape:
        return False
    heads = 0 < key.shape[1] <= query.shape[1] and query.shape[1] % key.shape[1] == 0
    return heads and len(query) == len(key) == 1 and query.shape[3] == key.shape[3] and query.shape[3] % COLUMNS == 0


def attend(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, options: dict[str, Any]) -> Tensor:
    """Attend with query (1, H, N, d), key and value (1, G, C, d) with G dividing H -> (1, N, H, d)."""
    scale, dropout = options.get("scaling") or query.shape[3] ** -0.5, options.get("dropout") or 0.0
    row = query[0], key[0], value[0]
    if not torch.is_grad_enabled():
        return _attended(*row, plan, scale, dropout, kernels.seed() if dropout else 0)[0][None]
    found: Tensor = _Attention.apply(*row, plan, (scale, dropout))  # type: ignore[no-untyped-call]
    return found[None]


def planned(packed_row: PackedRow, share: int, mask: Callable[[int], Tensor]) -> AttentionPlan:
    """Return the plan of the blocks that are not computed yet; `mask(number)` (n, c) says what each token of one sees.

    `share` is how many heads of queries ask one head of keys. Keys are those of the past, then of all blocks in order.
    """
    past = packed_row.past.tokens if packed_row.past else 0
    new = [number for number, block in enumerate(packed_row.blocks) if block.start >= packed_row.computed]
    seen_by = {b: ([-1] if past else []) + [*packed_row.blocks[b].before, b] for b in new}
    segments: dict[int, int] = {}
    rows: list[tuple[int, int, int]] = []
    columns = 0
    for number in dict.fromkeys(b for seen in seen_by.values() for b in seen):
        start, stop = (
            (0, past) if number < 0 else (past + packed_row.blocks[number].start, past + packed_row.blocks[number].stop)
        )
        segments[number] = len(rows)
        rows.append((start, stop, columns))
        columns += _padded(stop - start)
    blocks, sees, tasks = [], list[int](), []
    masks = [mask(number) for number in new]
    begins = buffered = widest = 0
    for at, (number, own) in enumerate(zip(new, masks, strict=True)):
        start, stop = (
            place - packed_row.computed for place in (packed_row.blocks[number].start, packed_row.blocks[number].stop)
        )
        numbers = [segments[b] for b in seen_by[number]]
        blocks.append((start, stop, len(sees), len(numbers), begins, own.shape[1]))
        begins += own.numel()
        sees += numbers
        width = sum(_padded(rows[n][1] - rows[n][0]) for n in numbers)
        widest = max(widest, width)
        chunks = min(TASKS_OF_A_BLOCK, -(-(stop - start) * share // ROWS_OF_A_TASK))
        step = -(-(stop - start) // chunks)
        for first in range(start, stop, step):
            tasks.append((at, first, min(first + step, stop), buffered))
            buffered += width
    seen = torch.cat([own.flatten() for own in masks]).to(torch.uint8)
    tables = {"segments": rows, "blocks": blocks, "sees": sees, "tasks": tasks}
    made = {name: torch.tensor(table, dtype=torch.long, device="cpu") for name, table in tables.items()}
    queries, keys = len(packed_row.ids) - packed_row.computed, max(stop for _, stop, _ in rows)
    return AttentionPlan(made | {"seen": seen.contiguous()}, columns, widest, buffered, queries, keys)


def _padded(count: int) -> int:
    return -(-count // COLUMNS) * COLUMNS


def _attended(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, *how: float) -> tuple[Tensor, Tensor]:
    """Return what heads of queries (H, N, d) get of keys and values (G, C, d), (N, H, d), and their masses (H, N)."""
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    heads, tokens, size = query.shape
    found, mass = query.new_empty(tokens, heads, size), query.new_empty(heads, tokens, dtype=torch.float32)
    _call("attention", _about(query, key, value, plan, *how), (query, key, value), (found, mass))
    return found, mass


class _Attention(torch.autograd.Function):
    """query (H, N, d), key and value (G, C, d) -> (N, H, d)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, how: tuple[float, float]
    ) -> Tensor:
        ctx.how = plan, *how, kernels.seed() if how[1] else 0
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        found, mass = _attended(query, key, value, *ctx.how)
        ctx.save_for_backward(query, key, value, found, mass)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        query, key, value, found, mass = ctx.saved_tensors
        about = _about(query, key, value, *ctx.how)
        dquery, (groups, keys, size) = torch.empty_like(found), key.shape
        dkey, dvalue = (key.new_zeros(keys, groups, size) for _ in range(2))
        above = gradients[0].contiguous()
        _call("attention_backward", about, (query, key, value), (found, above, mass, dquery, dkey, dvalue))
        return *(x.transpose(0, 1) for x in (dquery, dkey, dvalue)), None, None


def _about(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, *how: float) -> _PlanStruct:
    """`how` is the scale of the scores, the probability of dropout and the seed of what it drops."""
    heads, tokens, size = query.shape
    if tokens != plan.queries or key.shape[1] < plan.keys:
        raise kernels.UnsafeCallError(f"{tokens} queries and {key.shape[1]} keys are not those of the packed row")
    scale, dropout, seed = how
    names = {"query": query, "key": key, "value": value}
    strides = {f"{name}_{by}": x.stride(i) for name, x in names.items() for i, by in enumerate(("head", "token"))}
    return _PlanStruct(
        **{name: table.data_ptr() for name, table in plan.tables.items()},
        **{"segment_count": len(plan.tables["segments"]) - plan.lying, "task_count": len(plan.tables["tasks"])},
        **{"columns": plan.columns, "widest": plan.widest, "buffered": plan.buffered},
        **{"heads": heads, "groups": len(key), "size": size, "tokens": tokens, "seed": seed},
        **strides,
        **{"scale": scale, "drop": dropout},
    )


def _call(name: str, about: _PlanStruct, asked: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
    """Call with query, key and value, by their strides, and with what lies row by row; of the rest see `_about`."""
    functions, threads = kernels.library(asked[0].dtype), torch.get_num_threads()
    if not about.segment_count:  # next tokens alone: to wake another thread takes longer than a few of them
        threads = 1 if about.buffered * about.heads * about.size <= FEW_PRODUCTS else threads
    space = functions.attention_space(ctypes.byref(about), int(name == "attention_backward"), threads)
    work = torch.empty(space, dtype=torch.float32, device="cpu")
    strided = [tuple(zip(x.shape, x.stride(), strict=True)) for x in asked]
    extents = [*strided, *(x.numel() for x in rows)]
    each = zip([*asked, *rows, work], functions.kinds[name], [*extents, space], strict=True)
    addresses = [kernels.address(x, dtype, extent) for x, (dtype, _), extent in each]
    getattr(functions, name)(ctypes.byref(about), *addresses, threads)
