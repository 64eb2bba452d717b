"""LoRA linears as one function: y = x Wᵀ + b + s (x Aᵀ) Bᵀ, with nothing kept or written that is not needed.

peft's own layer writes three tensors of the output's size on the way forward (B's product, a scaled copy, the sum) and
as many back. Here the low-rank product is added in place by the matrix product itself. Layers that read the same
tensor (query, key and value; gate and up) run together at the first one's call: one product with their stacked A, and
one sum of their gradients. Layers that do more than plain LoRA on a frozen linear (dropout, DoRA, several adapters,
merged weights) keep peft's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunelift.fast.frozen import Weight, as_batch, is_plain, weight_of
from tunelift.fast.low_rank import Products
from tunelift.fast.recomputing import Recomputing, recomputing
from tunelift.fast.undo import Undo

TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
)
"""Names of layers that may read the same tensor. Whether they do is seen at each call."""


@contextmanager
def fused_lora(model: nn.Module) -> Iterator[str]:
    """Let peft's LoRA linears run fused for a while; yields "on: N layers" or "off: reason" for the manifest."""
    undo = Undo()
    state = fuse(model, undo)
    try:
        yield state
    finally:
        undo.all()


def fuse(model: nn.Module, undo: Undo) -> str:
    """Let peft's LoRA linears run fused until undone; return "on: N layers" or "off: reason"."""
    linears = [module for module in model.modules() if _fusable(module)]
    fresh = {id(module) for module in linears if "forward" not in module.__dict__}  # others are fused already
    for parent in model.modules():
        for names in TOGETHER:
            group: list[Any] = [child for name in names if id(child := getattr(parent, name, None)) in fresh]
            group = [child for child in group if child.in_features == group[0].in_features]
            if len(group) > 1:
                fresh -= {id(module) for module in group}
                _Together(group, undo)
    for module in linears:
        if id(module) in fresh:
            undo.put(module, partial(_forward, module, module.forward))
    return f"on: {len(linears)} layers" if linears else "off: no plain LoRA on frozen linear layers"


def _fusable(module: Any) -> bool:
    from peft.tuners.lora.layer import Linear

    few_bits = ("Linear4bit", "Linear8bitLt")  # which are there with bitsandbytes alone
    of_bitsandbytes = type(module).__module__ == "peft.tuners.lora.bnb" and type(module).__name__ in few_bits
    ours = type(module) is Linear or of_bitsandbytes
    if not ours or not is_plain(module.base_layer) or getattr(module, "fan_in_fan_out", False):
        return False
    frozen = not any(p.requires_grad for p in module.base_layer.parameters())
    thin = [*module.lora_A.values(), *module.lora_B.values()]
    plain = all(type(layer) is nn.Linear and layer.bias is None for layer in thin)
    return frozen and plain and not module.lora_variant


Parts = tuple[Weight, Tensor, Tensor, float]
"""The frozen weight, A, B and scale of a layer's active adapter."""


def _parts(module: Any, x: Tensor) -> Parts | None:
    """Return what this call is computed from, if it is plain LoRA with one adapter."""
    active = module.active_adapters
    if module.disable_adapters or module.merged or len(active) != 1 or active[0] not in module.lora_A:
        return None
    (name,), base = active, module.base_layer
    dropout, a, b = module.lora_dropout[name], module.lora_A[name].weight, module.lora_B[name].weight
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0 and module.training
    # On a bfloat16 base the adapter, kept in fp32, is computed in bfloat16 as under autocast, and its gradient with it.
    computed = x.dtype == a.dtype or (x.dtype, a.dtype) == (torch.bfloat16, torch.float32)
    weight = weight_of(base)
    if drops or not computed or weight.dtype != x.dtype or torch.is_autocast_enabled(x.device.type):
        return None
    return weight, a, b, module.scaling[name]


def _forward(module: Any, plain: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Run fused where this call is plain LoRA, else as peft does."""
    parts = None if args or kwargs else _parts(module, x)
    return plain(x, *args, **kwargs) if parts is None else _run([parts], x)[0]


def _run(parts: Sequence[Parts], x: Tensor) -> tuple[Tensor, ...]:
    weights, every_a, every_b, scales = zip(*parts, strict=True)
    outputs: tuple[Tensor, ...] = _LoraLinears.apply(  # type: ignore[no-untyped-call]
        x, recomputing(x), weights, scales, *every_a, *every_b
    )
    return outputs


class _Together:
    """Layers that are computed at the first one's call, each of the others at its own if its input is another."""

    def __init__(self, modules: Sequence[Any], undo: Undo) -> None:
        self.modules = list(modules)
        self.input: Tensor | None = None
        self.version = 0
        self.ready: dict[int, Tensor] = {}
        for module in modules:
            undo.put(module, partial(self.forward, module, module.forward))

    def forward(self, module: Any, plain: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.input is x and self.version == x._version and id(module) in self.ready and not (args or kwargs):
            found = self.ready.pop(id(module))
            if not self.ready:
                self.input = None
            return found
        if module is self.modules[0] and self.ready:  # of the call before: nobody asks these layers each time
            self.modules = [one for one in self.modules if id(one) not in self.ready]
            self.ready, self.input = {}, None
        together = module is self.modules[0] and len(self.modules) > 1
        parts = [_parts(one, x) for one in self.modules] if together and not (args or kwargs) else [None]
        if None in parts:
            return _forward(module, plain, x, *args, **kwargs)
        first, *others = _run(cast("list[Parts]", parts), x)
        self.input, self.version = x, x._version
        self.ready = {id(one): found for one, found in zip(self.modules[1:], others, strict=True)}
        return first


class _LoraLinears(torch.autograd.Function):
    """x (..., I), each layer's weight (O, I) and scale, then each A (r, I) and each B (O, r) -> each (..., O)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: Recomputing, weights: Sequence[Weight], scales: Sequence[float], *flat: Tensor
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        every_a, every_b = flat[: len(weights)], flat[len(weights) :]
        ranks = [a.shape[0] for a in every_a]
        products = Products.fitting(rows, [weight.outputs for weight in weights], ranks)
        a = torch.cat(every_a) if len(every_a) > 1 else every_a[0]
        low = rows.new_empty(rows.shape[0], a.shape[0])  # (N, all r)
        products.into(low, 0, rows, a)
        outputs, firsts = [], [0, *accumulate(ranks)]
        for weight, b, first, scale in zip(weights, every_b, firsts, scales, strict=False):
            y = weight.of(rows)
            products.out_of(low, first, b.t(), y, scale)
            outputs.append(as_batch(y, x))
        ctx.save_for_backward(low, a, *every_b, *made.kept)
        ctx.weights, ctx.scales, ctx.firsts, ctx.products, ctx.make = weights, scales, firsts, products, made.make
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        low, a, *saved = ctx.saved_tensors
        count, products = len(gradients), ctx.products
        made = ctx.make(*saved[count:])
        rows = made.reshape(-1, made.shape[-1]).contiguous()
        dlow, dx = torch.zeros_like(low), None
        every_da, every_db = list[Tensor | None]([None] * count), list[Tensor | None]([None] * count)
        for i, (gradient, scale, weight, b) in enumerate(
            zip(gradients, ctx.scales, ctx.weights, saved[:count], strict=True)
        ):
            if gradient is None:
                continue
            part, dy = slice(*ctx.firsts[i : i + 2]), gradient.reshape(-1, gradient.shape[-1]).contiguous()
            products.into(dlow, part.start, dy, b.t(), scale)
            if ctx.needs_input_grad[0]:
                dx = weight.back(dy, dx)
            # Transposed, since with few columns the other way round is far slower in some libraries.
            every_db[i] = products.gradient(low, part, dy, scale, b.dtype).t()
        da = products.gradient(dlow, slice(0, a.shape[0]), rows, 1.0, a.dtype)  # (all r, I)
        for i, (first, stop) in enumerate(pairwise(ctx.firsts)):
            every_da[i] = None if every_db[i] is None else da[first:stop]
        if dx is not None:
            products.out_of(dlow, 0, a, dx)
        shape = next(g.shape for g in gradients if g is not None)[:-1]
        return (None if dx is None else dx.view(*shape, -1)), None, None, None, *every_da, *every_db
