"""Weights of a file in another dtype, converted a piece at a time, and each piece of the file let go at once.

transformers maps a file and converts weight by weight, so that in the end both file and model are in memory: of one in
float32 three times what the model takes in bfloat16.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

PIECE = 2**22
"""Numbers converted at once."""


@contextmanager
def converted_in_pieces() -> Iterator[None]:
    """Let transformers convert so for the calls inside; in a version that is built otherwise it does as it did."""
    from transformers import core_model_loading

    plain = getattr(core_model_loading, "_materialize_copy", None)
    if plain is None or not sys.platform.startswith("linux"):
        yield
        return
    core_model_loading._materialize_copy = partial(_converted, plain)
    try:
        yield
    finally:
        core_model_loading._materialize_copy = plain


def _converted(plain: Callable[..., Tensor], weight: Any, device: Any = None, dtype: Any = None) -> Tensor:
    """Return weight[...] on a device and in a dtype, as `plain` does; `weight` is a tensor, or a part of a file."""
    if isinstance(weight, Tensor) or (device is not None and torch.device(device).type != "cpu"):
        return plain(weight, device, dtype)
    mapped: Tensor = weight[...]
    if dtype in (None, mapped.dtype) or mapped.dtype is torch.uint8:  # which are blocks, not numbers
        mapped = plain(mapped, device, mapped.dtype)
        mapped.is_mapped = True  # type: ignore[attr-defined]
        return mapped
    whole = torch.empty(mapped.shape, dtype=dtype)
    for piece, place in zip(torch.split(mapped.reshape(-1), PIECE), torch.split(whole.view(-1), PIECE), strict=True):
        place.copy_(piece)
        _out_of_memory(piece)
    return whole


def let_go(weight: Tensor) -> None:
    """Let a weight that was given as it is mapped go out of memory; any other one is left to its owner."""
    if getattr(weight, "is_mapped", False):
        _out_of_memory(weight)


def _out_of_memory(piece: Tensor) -> None:
    """Let whole pages of a mapped piece go out of memory; they are read from the file again should anybody ask."""
    page = mmap.PAGESIZE
    first, end = -(-piece.data_ptr() // page) * page, (piece.data_ptr() + piece.nbytes) // page * page
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)
