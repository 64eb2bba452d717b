"""Products with frozen weights in eight bits, forward and for the input's gradient, in C (int8.c).

Rows of activations and of gradients are brought to eight bits one by one, weights by output. A gradient is multiplied
by the weights' scales first, so that the same eight bits of the weight serve both ways (SwitchBack, Wortsman et al.
2023, arXiv 2304.13013, without its product for the weight's gradient: the weight is frozen).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tunelift.fast import kernels

LARGEST = 127.0
DEEPEST = 65536
"""Numbers summed at most: more of the largest could leave 32 bits."""

PADDED = 16
"""Outputs are padded to a multiple of it, the most that lie beside each other in a packed weight."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An integer weight (O, D) in the kernel's order, the sums of its rows (O padded,), and its sizes."""

    numbers: Tensor
    sums: Tensor
    out: int
    size: int


class Int8Weight:
    """A frozen weight (O, I) with its bias (O,) in eight bits, ready for both of its products.

    `scales` (O,) times the eight bits are the weight, to half a scale.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        numbers, self.scales = in_eight_bits(weight)
        self.forward, self.turned = packed(numbers), packed(numbers.t())
        self.bias = None if bias is None else bias.detach().float()

    def of(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b (N, O), x (N, I)."""
        return product(x, self.forward, None, self.scales, self.bias)

    def back(self, dy: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return dy W (N, I), dy (N, O); added to `onto`, which is lost."""
        return product(dy, self.turned, self.scales, onto=onto)


def fits(weight: Tensor) -> bool:
    """Tell whether products with a weight can be computed here in eight bits."""
    return weight.dim() == 2 and weight.numel() > 0 and max(weight.shape) <= DEEPEST and kernels.of(weight) is not None


@torch.no_grad()
def in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (O, I) as whole numbers of -127 to 127, and the scale of each output (O,) in float32."""
    wide = weight.detach().float()
    scales = wide.abs().amax(dim=1) / LARGEST
    numbers = (wide / torch.where(scales > 0, scales, 1.0)[:, None]).round_().to(torch.int8)
    return numbers, scales


def packed(numbers: Tensor) -> Packed:
    """Return whole numbers (O, D) in the order that the kernel reads: (O / lanes, D / 4, lanes, 4)."""
    out, size = numbers.shape
    lanes = abs(kernels.library(torch.float32).int8_lanes())
    whole = torch.zeros(_padded(out, PADDED), _padded(size, 4), dtype=torch.int8, device="cpu")
    whole[:out, :size] = numbers
    ordered = whole.view(len(whole) // lanes, lanes, -1, 4).transpose(1, 2).contiguous()
    return Packed(ordered, whole.sum(dim=1, dtype=torch.int32), out, size)


def product(
    x: Tensor,
    weight: Packed,
    by: Tensor | None,
    scales: Tensor | None = None,
    bias: Tensor | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    """Return (x · by) times a packed weight transposed, (N, O), times `scales` (O,), + bias (O,); x (N, D), by (D,).

    It is added to `onto` (N, O), which is lost.
    """
    functions, x = kernels.library(x.dtype), x.contiguous()
    rows, deep = x.shape[0], _padded(weight.size, 4)
    if x.shape[1] != weight.size or (onto is not None and onto.shape != (rows, weight.out)):
        raise kernels.UnsafeCallError(f"{tuple(x.shape)} does not fit to a weight of {weight.out} by {weight.size}")
    q = torch.empty(rows, deep, dtype=torch.uint8, device="cpu")
    row_scales = torch.empty(rows, dtype=torch.float32, device="cpu")
    kernels.call(functions, "int8_rows", x, by, q, row_scales, rows, weight.size, deep)
    y = x.new_empty(rows, weight.out) if onto is None else onto.contiguous()
    tensors = q, row_scales, weight.numbers, weight.sums, scales, bias, y
    kernels.call(functions, "int8_product", *tensors, rows, weight.out, deep, int(onto is not None))
    return y


def _padded(count: int, to: int) -> int:
    return -(-count // to) * to
