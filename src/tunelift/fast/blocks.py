"""Frozen linear layers whose weights lie in blocks of few bits: widened a piece at a time for each product, in C.

int8 has groups of 32 numbers, q * step, the step in half precision; int4 groups of 64, least + q * step. Other layouts
are those of GGUF files (block_kinds.py). The last group of a row is filled up, so that rows may have any length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunelift.fast import kernels
from tunelift.fast.block_kinds import KINDS, Kind

PIECE = 2**22
"""Numbers widened at once: of a larger weight never more is wide."""

NARROWED_AT_ONCE = 2**19
"""Numbers quantised at once: what that takes beside them is several times as much, and glibc keeps some of it."""

HALF = 65504.0
"""The largest number in half precision, in which steps are."""


class Blocks:
    """A weight (O, I) in blocks: `packed` (O, bytes of a row)."""

    def __init__(self, packed: Tensor, kind: str, size: int, dtype: torch.dtype) -> None:
        self.packed, self.kind, self.dtype = packed, kind, dtype
        self.shape = packed.shape[0], size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return some rows of the weight, by a slice or by their numbers."""
        return widened(self.packed[rows], self.kind, self.shape[1], self.dtype)

    def wide(self, first: int = 0, stop: int | None = None) -> Tensor:
        """Return rows of the weight from `first` on, all of them unless told where to stop."""
        return widened(self.packed[first:stop], self.kind, self.shape[1], self.dtype)


class BlockLinear(nn.Linear):
    """A frozen linear layer whose weight lies in blocks; stock to peft, which puts its layers around it."""

    like: Tensor

    def __init__(self, inputs: int, outputs: int, bias: Tensor | None, kind: str, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make the wide weight
        self.in_features, self.out_features, self.kind = inputs, outputs, kind
        packed = torch.empty(outputs, KINDS[kind].row_bytes(inputs), dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        # What a model is cast to and where it is moved, this follows.
        self.register_buffer("like", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)

    @property
    def blocks(self) -> Blocks:
        """Return the weight, which products in the model's dtype take."""
        return Blocks(self.weight.detach(), self.kind, self.in_features, self.like.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return x Wᵀ + b (..., O), x (..., I), in the dtype of x."""
        blocks = Blocks(self.weight.detach(), self.kind, self.in_features, input.dtype)
        y: Tensor = _Product.apply(input, blocks)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"


class BlockEmbedding(nn.Module):
    """Embeddings that lie in blocks, of which those are widened that a call asks for; scaled as Gemma's are."""

    like: Tensor

    def __init__(self, plain: nn.Embedding, kind: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.kind = plain.num_embeddings, plain.embedding_dim, kind
        self.scale: float = getattr(plain, "scalar_embed_scale", 1.0)
        packed = torch.empty(
            len(plain.weight), KINDS[kind].row_bytes(plain.embedding_dim), dtype=torch.uint8, device="meta"
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device="cpu"), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings (..., D) of ids (...)."""
        rows, places = torch.unique(ids, return_inverse=True)
        wide = widened(self.weight.detach()[rows], self.kind, self.embedding_dim, self.like.dtype)
        found = F.embedding(places, wide)
        return (
            found
            if self.scale == 1.0
            else found * torch.tensor(self.scale, dtype=torch.float32, device=ids.device).to(found.dtype)
        )


class _Product(torch.autograd.Function):
    """x (..., I) -> x Wᵀ (..., O), as torch multiplies: the plain way, which every fast one is compared with."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks = blocks
        parts = [F.linear(x, blocks.wide(*rows)) for rows in pieces(blocks.shape)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        (dy,), blocks = gradients, ctx.blocks
        return sum(dy[..., first:stop] @ blocks.wide(first, stop) for first, stop in pieces(blocks.shape)), None


def blocks_of(layer: Any) -> Blocks | None:
    """Return the weight of a layer in blocks, None for any other layer, or where they are not widened here."""
    if type(layer) is not BlockLinear or kernels.of(layer.like) is None or layer.weight.device.type != "cpu":
        return None
    return layer.blocks


def pieces(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield from where to where rows of a weight (O, I) are widened at once."""
    rows = max(1, PIECE // max(1, shape[1]))
    for first in range(0, shape[0], rows):
        yield first, min(first + rows, shape[0])


@torch.no_grad()
def widened(packed: Tensor, kind: str, size: int, dtype: torch.dtype) -> Tensor:
    """Return packed rows (O, bytes of a row) as (O, size) numbers: in C, or else as torch or the package gguf can."""
    layout, like = KINDS[kind], torch.empty(0, dtype=dtype, device=packed.device)
    functions = kernels.of(like)
    if functions is None or not packed.is_contiguous():
        rows = _SLOW.get(kind, partial(_by_gguf, kind=kind))(packed.view(packed.shape[0], -1, layout.bytes))
        return rows.flatten(1)[:, :size].to(dtype).contiguous()
    found = torch.empty(packed.shape[0], size, dtype=dtype, device="cpu")
    kernels.call(functions, "blocks_wide", packed, found, packed.shape[0], size, layout.number)
    return found


@torch.no_grad()
def narrowed(weight: Tensor, kind: str) -> Tensor:
    """Return a weight (O, I) in blocks (O, bytes of a row) of int8 or int4, made by some rows at a time.

    Raises ValueError for numbers that are none, or too large for a step in half precision.
    """
    layout = KINDS[kind]
    found = torch.empty(len(weight), layout.row_bytes(weight.shape[1]), dtype=torch.uint8, device=weight.device)
    rows = max(1, NARROWED_AT_ONCE // max(1, weight.shape[1]))
    for piece, into in zip(torch.split(weight, rows), torch.split(found, rows), strict=True):
        groups = _groups(piece.float(), layout)
        if not float(groups.abs().amax()) <= HALF:  # NaN among them
            raise ValueError(f"it holds numbers that are none, or larger than {HALF:.0f}")
        into.copy_((_to_int8 if kind == "int8" else _to_int4)(groups).flatten(1))
    return found


def _groups(rows: Tensor, layout: Kind) -> Tensor:
    """Return rows (O, I) as (O, groups, block), the last group filled up by the row's last number."""
    short = -rows.shape[1] % layout.block
    if short:
        rows = torch.cat([rows, rows[:, -1:].expand(-1, short)], dim=1)
    return rows.reshape(len(rows), -1, layout.block)


def _to_int8(groups: Tensor) -> Tensor:
    step = _half(groups.abs().amax(dim=-1, keepdim=True) / 127)
    q = (groups / _not_zero(step)).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([step.half().view(torch.uint8), q.view(torch.uint8)], dim=-1)


def _to_int4(groups: Tensor) -> Tensor:
    least, most = groups.amin(dim=-1, keepdim=True), groups.amax(dim=-1, keepdim=True)
    least = _half(least)
    step = _half((most - least).clamp_min(0) / 15)
    q = ((groups - least) / _not_zero(step)).round_().clamp_(0, 15).to(torch.uint8)
    both = q[..., :32] | q[..., 32:] << 4
    return torch.cat([step.half().view(torch.uint8), least.half().view(torch.uint8), both], dim=-1)


def _half(numbers: Tensor) -> Tensor:
    """Return numbers as half precision has them, in float32."""
    return numbers.half().float()


def _not_zero(step: Tensor) -> Tensor:
    return torch.where(step == 0, 1.0, step)


def _from_int8(blocks: Tensor) -> Tensor:
    step = blocks[..., :2].contiguous().view(torch.float16).float()
    return step * blocks[..., 2:].contiguous().view(torch.int8).float()


def _from_int4(blocks: Tensor) -> Tensor:
    halves = blocks[..., :4].contiguous().view(torch.float16).float()
    step, least = halves[..., :1], halves[..., 1:]
    q = torch.cat([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], dim=-1)
    return step * q.float() + least


_SLOW: dict[str, Callable[[Tensor], Tensor]] = {"int8": _from_int8, "q8_0": _from_int8, "int4": _from_int4}


def _by_gguf(blocks: Tensor, kind: str) -> Tensor:
    """Return blocks (O, groups, bytes) of a layout of ggml as the package gguf widens them, (O, groups, block)."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    flat = blocks.reshape(len(blocks), -1).cpu().numpy()
    return torch.from_numpy(dequantize(flat, GGMLQuantizationType[kind.upper()])).to(blocks.device)


def in_blocks(model: nn.Module) -> dict[str, BlockLinear]:
    """Return a model's linear layers whose weights lie in blocks, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BlockLinear)}


def numbers_beyond_bytes(model: nn.Module) -> int:
    """Return how many more numbers a model's weights in blocks hold than the bytes as which torch counts them."""
    held = dict[int, int]()
    for module in model.modules():
        if isinstance(module, BlockLinear):
            held[id(module.weight)] = module.in_features * module.out_features - module.weight.numel()
        elif isinstance(module, BlockEmbedding):
            held[id(module.weight)] = module.num_embeddings * module.embedding_dim - module.weight.numel()
    return sum(held.values())


def widen(model: nn.Module) -> None:
    """Put plain linear layers with the same numbers in the place of those in blocks, inside peft's layers too.

    An adapter can then be merged as into any model; the memory is that of the wide model. A head that is tied to
    embeddings in blocks stays as it is.
    """
    tied = {id(module.weight) for module in model.modules() if isinstance(module, BlockEmbedding)}
    for name, layer in in_blocks(model).items():
        if id(layer.weight) in tied:
            continue
        parent, _, own = name.rpartition(".")
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta", dtype=layer.like.dtype)
        plain.weight = nn.Parameter(layer.blocks.wide(), requires_grad=False)
        plain.bias = layer.bias
        setattr(model.get_submodule(parent), own, plain.train(layer.training))


def wide_bytes(model: nn.Module) -> int:
    """Return the bytes that a quantised model and the same in full precision take together."""
    own = {id(p): p for p in model.parameters()}
    wide = next(p.itemsize for p in own.values() if p.is_floating_point())
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    held = {id(one.weight): one.in_features * one.out_features for one in linear if not one.weight.is_floating_point()}
    return sum(p.nbytes + wide * held.get(key, p.numel()) for key, p in own.items())
