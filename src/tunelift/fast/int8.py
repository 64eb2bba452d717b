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
ZERO = 128

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

    `largest` (I,) is how large the activations of each column are, where that is known.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, largest: Tensor | None = None) -> None:
        wide = weight.detach().float()
        self.by = None if largest is None else shifted(wide, largest)
        self.forward = packed(wide if self.by is None else wide / self.by, GROUP)
        numbers, self.scales = in_eight_bits(wide)
        self.turned = packed(numbers.t(), DEEPEST)
        self.bias = None if bias is None else bias.detach().float()

    def of(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b (N, O), x (N, I)."""
        return product(x, self.forward, self.by, self.bias)

    def back(self, dy: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return dy W (N, I), dy (N, O); added to `onto`, which is lost."""
        return product(dy, self.turned, self.scales, onto=onto)


def fits(weight: Tensor) -> bool:
    """Tell whether products with a weight can be computed here in eight bits."""
    return weight.dim() == 2 and weight.numel() > 0 and max(weight.shape) <= DEEPEST and kernels.of(weight) is not None


def shifted(weight: Tensor, largest: Tensor) -> Tensor:
    """Return by what each column (I,) of activations is multiplied, the weight's (O, I) being divided by it."""
    own, others = (sizes.float().clamp_min(1e-5).log() for sizes in (largest, weight.abs().amax(dim=0)))
    shift = SHIFT * own - (1 - SHIFT) * others
    return (shift.mean() - shift).exp()


@torch.no_grad()
def in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (O, I) as whole numbers of -127 to 127, and the scale of each output (O,) in float32."""
    scales = weight.abs().amax(dim=1) / LARGEST
    return (weight / torch.where(scales > 0, scales, 1.0)[:, None]).round_().to(torch.int8), scales


@torch.no_grad()
def packed(weight: Tensor, group: int) -> Packed:
    """Return a weight (O, D), or whole numbers that need no scales, in the order of the kernel.

    That is (O / lanes, D / 4, lanes, 4), with O padded to 16.
    """
    out, size = weight.shape
    lanes = abs(kernels.library(torch.float32).int8_lanes())
    group = min(group, _padded(size, 4))
    whole = torch.zeros(_padded(out, 16), _padded(size, 4), dtype=torch.int8, device="cpu")
    begins, scales = [], []
    for first in range(0, size, group):
        numbers = weight[:, first : first + group]
        if weight.is_floating_point():
            numbers, scale = in_eight_bits(numbers)
            scales.append(torch.nn.functional.pad(scale, (0, len(whole) - out)))
        whole[:out, first : first + numbers.shape[1]] = numbers
        begins.append(whole[:, first : first + group].sum(dim=1, dtype=torch.int32) * -ZERO)
    ordered = whole.view(len(whole) // lanes, lanes, -1, 4).transpose(1, 2).contiguous()
    return Packed(ordered, torch.stack(begins), torch.stack(scales) if scales else None, out, size, group)


def product(
    x: Tensor, weight: Packed, by: Tensor | None, bias: Tensor | None = None, onto: Tensor | None = None
) -> Tensor:
    """Return (x · by) times a packed weight transposed, (N, O), + bias (O,); x (N, D), by (D,).

    It is added to `onto` (N, O), which is lost.
    """
    functions, x = kernels.library(x.dtype), x.contiguous()
    rows, deep = x.shape[0], _padded(weight.size, 4)
    if x.shape[1] != weight.size or (onto is not None and onto.shape != (rows, weight.out)):
        raise kernels.UnsafeCallError(f"{tuple(x.shape)} does not fit to a weight of {weight.out} by {weight.size}")
    q = torch.empty(rows, deep, dtype=torch.uint8, device="cpu")
    own = torch.empty(rows, len(weight.begins), dtype=torch.float32, device="cpu")
    kernels.call(functions, "int8_rows", x, by, q, own, rows, weight.size, deep, weight.group)
    y = x.new_empty(rows, weight.out) if onto is None else onto.contiguous()
    tensors = q, own, weight.numbers, weight.begins, weight.scales, bias, y
    kernels.call(functions, "int8_product", *tensors, rows, weight.out, deep, weight.group, int(onto is not None))
    return y


def _padded(count: int, to: int) -> int:
    return -(-count // to) * to
