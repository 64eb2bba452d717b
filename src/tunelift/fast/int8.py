"""Products with frozen weights in eight bits, forward and for the input's gradient, in C (int8.c).

Forward each GROUP of columns has scales of its own, by row and by output, and columns in which activations are large
are made smaller, the weight's larger (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438). A gradient is multiplied by the
weights' scales, one for each output, and brought to eight bits by rows (SwitchBack, Wortsman et al. 2023, arXiv
2304.13013, without its product for the weight's gradient: the weight is frozen).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunelift.fast import kernels

LARGEST = 127.0

GROUP = 128
"""Columns that share a scale."""

DEEPEST = 65536
"""Numbers summed at most: more of the largest could leave 32 bits."""

SHIFT = 0.6
"""How much of a column's size goes from the activations to the weight: all of it at 1."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Whole numbers (O, D) in the kernel's order, what its sums begin with and the scales, (groups, O padded)."""

    numbers: Tensor
    begins: Tensor
    scales: Tensor | None
    out: int
    size: int
    group: int


class Int8Weight:
    """A frozen weight (O, I) with its bias (O,) in eight bits, ready for both of its products.

    `largest` (I,) is how large the activations of each column are, where that is known. Of `group` outputs gradients
    have one scale.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, largest: Tensor | None = None, group: int = DEEPEST
    ) -> None:
        self.by = None if largest is None else shifted(weight, largest)
        self.forward = packed(weight, GROUP, None if self.by is None else 1.0 / self.by)
        self.scales = scales_of(weight)
        self.turned = packed(weight.t(), group, over=self.scales)
        self.bias = None if bias is None else bias.detach().float()

    def of(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b (N, O), x (N, I)."""
        return product(x, self.forward, self.by, self.bias)

    def back(self, dy: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return dy W (N, I), dy (N, O); added to `onto`, which is lost."""
        return product(dy, self.turned, self.scales, onto=onto)


class Int8Tiles:
    """Tiles of a head's weight in eight bits, each made when it is first asked for.

    The first hidden states say how large the activations of each column are. What goes back are shares of probability,
    of which most are small beside the largest: they have a scale for each group too. Without `back` that product is
    computed with the weight as it is.
    """

    def __init__(self) -> None:
        self.back = True
        self.made: dict[int, tuple[Tensor, Int8Weight]] = {}
        self.largest: Tensor | None = None

    def of(self, tile: Tensor, hidden: Tensor) -> Int8Weight:
        """Return a tile (T, D), a part of a tensor that stays, for the product with hidden states (N, D)."""
        if self.largest is None:
            self.largest = hidden.detach().float().abs().amax(dim=0)
        if tile.data_ptr() not in self.made:
            self.made[tile.data_ptr()] = tile, Int8Weight(tile, None, self.largest, GROUP)
        return self.made[tile.data_ptr()][1]


def fits(weight: Tensor) -> bool:
    """Tell whether products with a weight can be computed here in eight bits."""
    return weight.dim() == 2 and weight.numel() > 0 and max(weight.shape) <= DEEPEST and kernels.of(weight) is not None


def has_products(weight: Tensor) -> bool:
    """Tell whether this processor has products in eight bits, forward, with a weight (O, I)."""
    suits = weight.dim() == 2 and weight.numel() > 0 and weight.shape[1] <= DEEPEST
    return suits and kernels.of(weight) is not None and kernels.library(weight.dtype).int8_lanes() > 0


@torch.no_grad()
def shifted(weight: Tensor, largest: Tensor) -> Tensor:
    """Return by what each column (I,) of activations is multiplied, the weight's (O, I) being divided by it."""
    own, others = (sizes.float().clamp_min(1e-5).log() for sizes in (largest, weight.abs().amax(dim=0)))
    shift = SHIFT * own - (1 - SHIFT) * others
    return (shift.mean() - shift).exp()


@torch.no_grad()
def scales_of(weight: Tensor) -> Tensor:
    """Return the scale of each output (O,) of a weight (O, I), in float32."""
    return weight.abs().amax(dim=1).float() / LARGEST


@torch.no_grad()
def packed(weight: Tensor, group: int, by: Tensor | None = None, over: Tensor | None = None) -> Packed:
    """Return a weight (O, D), its columns multiplied `by` (D,), in eight bits and in the order of the kernel.

    Each output has a scale for each group of columns, or each column is divided by what `over` (D,) says of it.
    """
    weight = weight.detach()
    out, size = weight.shape
    deep = _padded(size, 4)
    group = min(group, deep)
    numbers = torch.empty(_padded(out, 16), deep, dtype=torch.int8, device="cpu")
    begins = torch.empty(-(-deep // group), len(numbers), dtype=torch.int32, device="cpu")
    scales = torch.empty_like(begins, dtype=torch.float32) if over is None else None
    tensors = weight, by, over, numbers, begins, scales
    kernels.call(kernels.library(weight.dtype), "int8_pack", *tensors, *weight.stride(), out, size, deep, group)
    return Packed(numbers, begins, scales, out, size, group)


def product(
    x: Tensor, weight: Packed, by: Tensor | None, bias: Tensor | None = None, onto: Tensor | None = None
) -> Tensor:
    """Return (x · by) times a packed weight transposed, (N, O), + bias (O,); x (N, D), by (D,).

    It is added to `onto` (N, O), which is lost.
    """
    if x.shape[1] != weight.size or (onto is not None and onto.shape != (len(x), weight.out)):
        raise kernels.UnsafeCallError(f"{tuple(x.shape)} does not fit to a weight of {weight.out} by {weight.size}")
    q, own = in_eight_bits(x, weight, by)
    return times(q, own, weight, x.new_empty(len(x), weight.out) if onto is None else onto, bias, onto is not None)


def in_eight_bits(x: Tensor, weight: Packed, by: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (x · by), (N, D), as a weight wants it: 128 + whole numbers (N, D padded), their scales (N, groups)."""
    rows, deep = len(x), _padded(weight.size, 4)
    q = torch.empty(rows, deep, dtype=torch.uint8, device="cpu")
    own = torch.empty(rows, len(weight.begins), dtype=torch.float32, device="cpu")
    functions, sizes = kernels.library(x.dtype), (rows, weight.size, deep, weight.group)
    kernels.call(functions, "int8_rows", x.contiguous(), by, q, own, *sizes)
    return q, own


def times(q: Tensor, own: Tensor, weight: Packed, y: Tensor, bias: Tensor | None, add: bool = False) -> Tensor:
    """Write what `in_eight_bits` gave times a packed weight transposed, + bias (O,), to y (N, O), or add it."""
    y = y.contiguous()
    tensors = q, own, weight.numbers, weight.begins, weight.scales, bias, y
    numbers = len(q), weight.out, q.shape[1], weight.group, int(add)
    kernels.call(kernels.library(y.dtype), "int8_product", *tensors, *numbers)
    return y


def _padded(count: int, to: int) -> int:
    return -(-count // to) * to
