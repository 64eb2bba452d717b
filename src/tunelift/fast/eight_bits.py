"""Products with frozen weights that bitsandbytes holds in eight bits: widened for each product, a piece at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IN_BOTH_MODES = "dtype_in_both_modes"
"""What the state of a layer has that is widened in evaluation as in training: the dtype of its products."""


class EightBits:
    """A weight (O, I) in whole numbers up to 127, with a scale for each row: LLM.int8()'s (arXiv 2208.07339)."""

    def __init__(self, numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> None:
        self.numbers, self.scales, self.dtype = numbers, scales, dtype
        self.shape = tuple(numbers.shape)

    @torch.no_grad()
    def wide(self, first: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the weight (O, I) from `first` on as bitsandbytes widens it, to the bit; all unless told."""
        some = self.numbers[first:stop].to(self.dtype)
        return some.mul_(self.scales[first:stop].unsqueeze(1).mul(1.0 / 127.0))


def bytes_of(layer: Any) -> EightBits | None:
    """Return the weight of a layer of bitsandbytes' in eight bits, None for any other layer.

    A stock layer computes otherwise in evaluation than in training, so that it is left to itself: only one that is
    widened in both modes (models/quantized.py) is known here.
    """
    kind = type(layer)
    if kind.__name__ != "Linear8bitLt" or not kind.__module__.startswith("bitsandbytes.nn"):
        return None
    state, weight = layer.state, layer.weight
    # bitsandbytes moves them from the weight to the state at the first call.
    holder = weight if getattr(weight, "CB", None) is not None else state
    numbers, scales, dtype = holder.CB, holder.SCB, getattr(state, IN_BOTH_MODES, None)
    if dtype is None or state.has_fp16_weights or numbers is None or scales is None or numbers.dtype != torch.int8:
        return None
    whole = tuple(numbers.shape) == (layer.out_features, layer.in_features)
    return EightBits(numbers, scales, dtype) if whole and scales.shape == numbers.shape[:1] else None
