"""The products of LoRA in which one side has a few columns: in C (low_rank.c) where the sizes fit, else torch's.

`low` (N, all ranks) holds the low-rank sides of layers that run together, each a part of its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunelift.fast import kernels

STEP = 16
"""Sizes are multiples of it, the columns of a vector (products.h), ranks of two."""

RANK_AT_MOST = 128
"""Above, the products are no longer small."""


@dataclass(frozen=True, slots=True)
class Products:
    """How the products of one call are computed: by the compiled functions, or by torch where there are none."""

    functions: Any

    @staticmethod
    def fitting(x: Tensor, sizes: Sequence[int], ranks: Sequence[int]) -> Products:
        """Return the products for rows like x (N, I), of layers with outputs of these sizes."""
        fit = all(size % STEP == 0 for size in (x.shape[-1], *sizes)) and all(rank % 2 == 0 for rank in ranks)
        functions = kernels.of(x) if fit and x.dim() == 2 and sum(ranks) <= RANK_AT_MOST else None
        return Products(functions if functions is not None and functions.low_rank_runs() else None)

    def into(self, low: Tensor, first: int, x: Tensor, m: Tensor, scale: float = 1.0) -> None:
        """Let columns of low from `first` be scale * x mᵀ; x (N, size), m (rank, size)."""
        if self.functions is None:
            low[:, first : first + len(m)] = (x @ m.to(x.dtype).t()).mul_(scale)
            return
        m = _thin(m, x, low, first)
        work = kernels.work_space(x.shape[1] * (m.shape[0] + STEP))
        sizes = (*x.shape, m.shape[0], *m.stride(), low.shape[1], first, scale)
        kernels.call(self.functions, "low_rank_in", x, m, low, work, *sizes)

    def out_of(self, low: Tensor, first: int, m: Tensor, y: Tensor, scale: float = 1.0) -> None:
        """Add scale * low[:, first : first + rank] m to y (N, size), m (rank, size)."""
        if self.functions is None:
            y.addmm_(low[:, first : first + len(m)], m.to(y.dtype), alpha=scale)
            return
        m = _thin(m, y, low, first)
        sizes = (*y.shape, m.shape[0], *m.stride(), low.shape[1], first, scale)
        work = kernels.work_space(m.numel())
        kernels.call(self.functions, "low_rank_out", low, m, y, work, *sizes)

    def gradient(self, low: Tensor, part: slice, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        """Return scale * low[:, part]ᵀ x, (rank, size), in the dtype of the adapter."""
        if self.functions is None:
            return (low[:, part].t() @ x).to(dtype).mul_(scale)
        rank = part.stop - part.start
        _check(rank, x, low, part.start)
        found = torch.empty(rank, x.shape[1], dtype=torch.float32, device="cpu")
        width = rank + torch.get_num_threads() * kernels.NARROW
        work = kernels.work_space((x.shape[0] + 1) * width)
        sizes = (*x.shape, rank, low.shape[1], part.start, scale)
        kernels.call(self.functions, "low_rank_weights", low, x, found, work, *sizes)
        return found.to(dtype)


def _thin(m: Tensor, x: Tensor, low: Tensor, first: int) -> Tensor:
    """Return m (rank, size) in float, once it fits to x (N, size) and to columns of low from `first`."""
    if m.dim() != 2 or m.shape[1] != x.shape[1]:
        raise kernels.UnsafeCallError(f"an adapter's {tuple(m.shape)} does not fit to rows of {x.shape[1]}")
    _check(m.shape[0], x, low, first)
    return m if m.dtype is torch.float32 else m.float()


def _check(rank: int, x: Tensor, low: Tensor, first: int) -> None:
    (rows, columns), (count, size) = low.shape, x.shape
    fits = 0 <= first <= first + rank <= columns and rows == count
    if not fits or size % STEP or rank % 2 or first % 2 or columns % 2:
        raise kernels.UnsafeCallError(f"{rank} columns from {first} of {tuple(low.shape)} beside {tuple(x.shape)}")
