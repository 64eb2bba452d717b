"""The functions of the C files here: what they take, and what is looked at before they touch memory.

A C compiler is all that they need (compiling.py); without one everything runs as before. TUNELIFT_KERNELS=0 forbids
them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from tunelift.core import machine
from tunelift.fast.block_kinds import of_number
from tunelift.fast.compiling import UncompiledError, compiled

SWITCH = "TUNELIFT_KERNELS"
TYPES = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}


class E(ctypes.c_void_p):
    """Elements of the type that is compiled for."""


class S(ctypes.c_void_p):
    """Numbers in single precision, whatever the elements are."""


class B(ctypes.c_void_p):
    """Truth values; may be NULL."""


class O(ctypes.c_void_p):  # noqa: E742 (as the letters below)
    """Numbers in single precision; may be NULL."""


class U8(ctypes.c_void_p):
    """Bytes."""


class I8(ctypes.c_void_p):
    """Whole numbers of eight bits."""


class I32(ctypes.c_void_p):
    """Whole numbers of 32 bits."""


class W(ctypes.c_void_p):
    """Whole numbers of 32 bits; may be NULL."""


KINDS = {
    **{S: torch.float32, O: torch.float32, B: torch.bool, U8: torch.uint8, I8: torch.int8},
    **{I32: torch.int32, W: torch.int32},
}
OPTIONAL = (O, B, W)


P, N, F, D, I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_int  # noqa: E741 (the letters of ctypes' codes)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rms_norm": (E, E, E, S, N, N, F, F, I),
    "rms_norm_backward": (E, E, E, S, E, N, N, F, I),
    "gated": (E, E, E, N, I, I),
    "gated_backward": (E, E, E, E, E, N, I, I),
    "rotated": (E, E, E, E, N, N, N, N, N, N, N, I, I),
    "dropout": (E, E, N, N, D, I),
    "tile_softmax": (E, B, S, S, S, S, N, N, F, F, I, I),
    "attention": (P, E, E, E, E, S, S, I),
    "attention_backward": (P, E, E, E, E, E, S, E, E, E, S, I),
    "attention_space": (P, I, I),
    "low_rank_runs": (),
    "low_rank_in": (E, S, E, S, N, N, N, N, N, N, N, F, I),
    "low_rank_out": (E, S, E, S, N, N, N, N, N, N, N, F, I),
    "low_rank_weights": (E, E, S, S, N, N, N, N, N, F, I),
    "int8_lanes": (),
    "int8_rows": (E, O, U8, S, N, N, N, N, I),
    "int8_pack": (E, O, O, I8, I32, O, N, N, N, N, N, N, I),
    "int8_product": (U8, S, I8, I32, O, O, E, N, N, N, N, I, I),
    "likeliest": (S, S, S, S, I32, I32, N, N, N, I),
    "four_bits_wide": (U8, S, S, E, N, N, N, I),
    "blocks_wide": (U8, E, N, N, N, I),
    "panels": (E, E, N, N, I),
    "decoder_layer": (
        *(S, S, S, S, S, O, O, O, S, O, E, O, E, O, E, O, E, O, E, E, I32, I32, I32, W),
        *(O,) * 14,
        *(S, *(N,) * 18, I, F, F, F, F, I),
    ),
}
TENSORS = {name: tuple(kind for kind in kinds if kind in (E, *KINDS)) for name, kinds in ARGUMENTS.items()}
"""The kinds of a function's tensors, which come first (in attention behind the plan)."""

RETURNS = {"attention_space": N, "low_rank_runs": I, "int8_lanes": I}

SHORT = 2**14
"""Elements of a pass that one thread makes in some microseconds. Results do not depend on the number of threads."""

LANES_AT_MOST, NARROW = 16, 64  # products.h, low_rank.c

Extent = int | tuple[tuple[int, int], ...]
"""What C touches of a tensor: so many elements in a row, or (count, stride) by each index."""


def _low_rank(rows: int, size: int, rank: int, *steps: Any) -> tuple[Extent, Extent]:
    m_row, m_column, ranks, *_ = steps
    return ((rank, m_row), (size, m_column)), rows * ranks


def _decoder_layer(rows: int, size: int, heads: int, groups: int, head: int, *others: Any) -> tuple[Extent, ...]:
    inner, _, most, tokens, adapters, runs, *ranks = others[:13]
    queries, ours, side = heads * head, (heads + 2 * groups) * head, groups * head
    weights = ((ours, size), (size, queries), (2 * inner, size), (size, inner))
    low = ((size, queries), (size, side), (size, side), (queries, size), (size, inner), (size, inner), (inner, size))
    work = rows * (2 * size + ours + queries + 2 * inner + sum(ranks)) + others[-1] * heads * most
    return (
        *(rows * size, rows * size, rows * head, rows * head, size, head, head, size, size, size),
        *(n for out, into in weights for n in (-(-out // LANES_AT_MOST) * LANES_AT_MOST * into, out)),
        *(tokens * side, tokens * side, rows, 2 * runs, rows + 1, rows),
        *(adapters * rank * n for rank, both in zip(ranks, low, strict=True) for n in both),
        work,
    )


def _int8(rows: int, out: int, padded: int, deep: int, groups: int) -> tuple[Extent, ...]:
    return rows * deep, rows * groups, padded * deep, groups * padded, groups * padded, out, rows * out


TOUCHED: dict[str, Callable[..., tuple[Extent, ...]]] = {
    "rms_norm": lambda rows, size, *_: (rows * size, size, rows * size, rows),
    "rms_norm_backward": lambda rows, size, *_: (rows * size, rows * size, size, rows, rows * size),
    "gated": lambda count, *_: (count,) * 3,
    "gated_backward": lambda count, *_: (count,) * 5,
    "rotated": lambda heads, tokens, size, x_head, x_token, y_head, y_token, *_: (
        ((heads, x_head), (tokens, x_token), (size, 1)),
        tokens * size,
        tokens * size,
        ((heads, y_head), (tokens, y_token), (size, 1)),
    ),
    "dropout": lambda count, *_: (count, count),
    "tile_softmax": lambda rows, size, *_: (rows * size, size, rows, rows, rows, rows),
    "low_rank_in": lambda rows, size, rank, *steps: (
        rows * size,
        *_low_rank(rows, size, rank, *steps),
        size * (-(-rank // LANES_AT_MOST) * LANES_AT_MOST),
    ),
    "low_rank_out": lambda rows, size, rank, *steps: (
        *_low_rank(rows, size, rank, *steps)[::-1],
        rows * size,
        rank * size,
    ),
    "low_rank_weights": lambda rows, size, rank, ranks, first, scale, threads: (
        rows * ranks,
        rows * size,
        rank * size,
        (rows + 1) * (rank + threads * NARROW),
    ),
    "int8_rows": lambda rows, size, deep, group, *_: (rows * size, size, rows * deep, rows * -(-deep // group)),
    "int8_pack": lambda w_out, w_deep, out, size, deep, group, *_: (
        *(((out, w_out), (size, w_deep)), size, size),
        *_int8(0, out, -(-out // 16) * 16, deep, -(-deep // group))[2:5],
    ),
    "likeliest": lambda rows, out, most, *_: (rows * out, out, out, rows * 2, rows * most, rows),
    "four_bits_wide": lambda first, count, block, *_: (
        -(-(first + count) // 2),
        -(-(first + count) // block),
        16,
        count,
    ),
    "blocks_wide": lambda rows, size, kind, *_: (rows * of_number(kind).row_bytes(size), rows * size),
    "panels": lambda out, into, *_: (out * into, -(-out // LANES_AT_MOST) * LANES_AT_MOST * into),
    "decoder_layer": _decoder_layer,
    "int8_product": lambda rows, out, deep, group, *_: _int8(rows, out, -(-out // 16) * 16, deep, -(-deep // group)),
}
"""From a function's numbers to what it touches of each of its tensors (those of attention: block_attention.py)."""

_own = threading.local()
_forbidden: ContextVar[bool] = ContextVar("whether the slow twins run in the calls inside", default=False)


@contextmanager
def without() -> Iterator[None]:
    """Let everything inside run as torch has it."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


class UnsafeCallError(RuntimeError):
    """A tensor is not what C would take it for; a fault of this library, found before memory is touched."""


def of(*tensors: Tensor) -> Any:
    """Return the compiled functions for tensors like these, or None where it is to be computed as torch has it."""
    dtype = tensors[0].dtype
    if dtype not in TYPES or _forbidden.get():
        return None
    for x in tensors:
        if _place(x, dtype) is None:
            return None
    found = _library(dtype)
    return None if isinstance(found, str) else found


_BYTES = {dtype: dtype.itemsize for dtype in (*TYPES, *KINDS.values())}
_STRIDED = torch.strided


def _place(x: Tensor, dtype: torch.dtype) -> int | None:
    """Return where a tensor begins, if the memory there holds its numbers as C lays such numbers out."""
    if x.dtype is not dtype or not x.is_cpu or x.layout is not _STRIDED or x.is_neg():
        return None
    place = x.data_ptr()
    return None if place % _BYTES[dtype] else place


def call(functions: Any, name: str, *arguments: Any) -> None:
    """Call a function with tensors, as the addresses of their first elements, and numbers, on torch's threads.

    Whatever C relies on is looked at before: dtypes, places, and how far each tensor's memory goes. There are a
    thousand calls in a step, so that a look is no more than it must be.
    """
    kinds = functions.kinds[name]
    threads = threads_for(max([0 if x is None else x.numel() for x in arguments[: len(kinds)]]))
    numbers = arguments[len(kinds) :]
    addresses = [
        None if optional and x is None else address(x, dtype, extent)
        for x, (dtype, optional), extent in zip(
            arguments[: len(kinds)], kinds, TOUCHED[name](*numbers, threads), strict=True
        )
    ]
    getattr(functions, name)(*addresses, *numbers, threads)


def threads_for(elements: int) -> int:
    """Return on how many threads a pass over so many elements runs: to wake others takes longer than a short one."""
    return 1 if elements <= SHORT else torch.get_num_threads()


def address(x: Tensor, dtype: torch.dtype, extent: Extent) -> int:
    """Return where a tensor begins, once it is sure that C may touch so much of it; raise UnsafeCallError."""
    place = _place(x, dtype)
    if place is not None:
        if isinstance(extent, int):
            reaches = x.numel() >= extent and x.is_contiguous()
        else:
            last = 0
            for count, stride in extent:
                last += (count - 1) * stride
            end = x.untyped_storage().nbytes() // dtype.itemsize - x.storage_offset()
            reaches = last < end or not all(count for count, _ in extent)
        if reaches:
            return place
    raise UnsafeCallError(f"C would touch {extent} elements ({dtype}) of {x.shape}, {x.layout}, {x.dtype}")


def work_space(count: int) -> Tensor:
    """Return at least so many floats for a call to work with: the same ones for every call of a thread."""
    kept: Tensor | None = getattr(_own, "space", None)
    if kept is None or kept.numel() < count:
        kept = _own.space = torch.empty(count, dtype=torch.float32, device="cpu")
    return kept


def seed() -> int:
    """Return a seed for what a call draws, from torch's own generator."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.long, device="cpu"))


def library(dtype: torch.dtype) -> Any:
    """Return the compiled functions for a dtype, from the cache where they are in it; raise UncompiledError."""
    if dtype not in TYPES:
        raise UncompiledError("they are for float32 and bfloat16 on a CPU")
    found = _library(dtype)
    if isinstance(found, str):
        raise UncompiledError(found)
    return found


@functools.cache
def _library(dtype: torch.dtype) -> Any:
    """Return the functions, or why there are none, which is not asked twice."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    # Where torch was told to do without AVX512 (ATEN_CPU_CAPABILITY), to see what another machine does.
    lowered = ("-mno-avx512f",) if machine.vectors() == "AVX2" else ()
    try:
        functions: Any = compiled((*lowered, *TYPES[dtype]), sanitized=os.environ.get(SWITCH) == "sanitize")
        for name, types in ARGUMENTS.items():
            getattr(functions, name).argtypes = types
            getattr(functions, name).restype = RETURNS.get(name)
    except (UncompiledError, AttributeError) as error:
        return str(error)
    dtypes = KINDS | {E: dtype}
    functions.kinds = {name: tuple((dtypes[kind], kind in OPTIONAL) for kind in TENSORS[name]) for name in ARGUMENTS}
    return functions
