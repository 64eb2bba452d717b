"""Products with frozen weights that bitsandbytes holds in four bits: widened in C for each product, and let go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunelift.fast import kernels


def numbers_of(layer: Any) -> FourBits | None:
    """Return the weight of a layer of bitsandbytes' in four bits, None for any other layer, or one not known here."""
    kind = type(layer)
    if kind.__name__ != "Linear4bit" or not kind.__module__.startswith("bitsandbytes.nn"):
        return None
    weight = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None or state.nested or state.code.numel() != 16 or weight.dtype != torch.uint8:
        return None
    if getattr(state, "packing_format_for_cpu", False) or layer.compute_dtype not in (None, state.dtype):
        return None
    found = FourBits(weight, state)
    return found if found.size == weight.numel() * 2 and kernels.of(found.empty()) is not None else None


class FourBits:
    """A weight (O, I), two numbers to a byte, in blocks with a scale for each (QLoRA, arXiv 2305.14314)."""

    def __init__(self, weight: Tensor, state: Any) -> None:
        self.packed, self.state = weight, state
        self.shape, self.dtype = tuple(state.shape), state.dtype
        self.size = self.shape[0] * self.shape[1]

    def empty(self) -> Tensor:
        """Return a tensor of no numbers, of the dtype that products are in."""
        return torch.empty(0, dtype=self.dtype, device=self.packed.device)

    @torch.no_grad()
    def wide(self, first: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the weight (O, I) from `first` on as bitsandbytes widens it, to the bit; all unless told."""
        count, size = (self.shape[0] if stop is None else stop) - first, self.shape[1]
        found = torch.empty(count, size, dtype=self.dtype, device="cpu")
        tensors = self.packed.detach(), self.state.absmax, self.state.code, found
        where = first * size, count * size, self.state.blocksize
        kernels.call(kernels.library(self.dtype), "four_bits_wide", *tensors, *where)
        return found
