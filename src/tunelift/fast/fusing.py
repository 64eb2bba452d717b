"""Norms, gates, rotary positions and dropout of stock models through the kernels, each in one pass over memory.

What is fused is found by trying: a module's own result on random numbers is compared with that of the formula that a
kernel computes, and a module that gives something else is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunelift.fast import kernels
from tunelift.fast.compiling import UncompiledError
from tunelift.fast.frozen import products_dtype
from tunelift.fast.recomputing import note_recomputing
from tunelift.fast.undo import Undo, in_evaluation
from tunelift.model_facts.parameters import compute_dtype, device_of

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (F.silu, partial(F.gelu, approximate="tanh"))
"""In the order of the kernels' enum."""

EPSILONS = ("eps", "variance_epsilon")
ROTARY = "apply_rotary_pos_emb"
"""The function that turns queries and keys in transformers' model files."""


def fuse_passes(model: nn.Module, undo: Undo) -> str:
    """Fuse norms, gates and rotary positions until undone; return "on: what" or "off: reason" for the manifest."""
    if not any(parameter.is_floating_point() for parameter in model.parameters()):
        return "off: the model has no parameters that are numbers with a point"
    if device_of(model).type != "cpu":
        return "off: they are for the CPU"
    try:
        kernels.library(compute_dtype(model))
    except UncompiledError as error:
        return f"off: {error}"
    with in_evaluation(model):
        norms, gates, dropouts = _fused_modules(model, undo)
    files = [vars(sys.modules[name]) for name in {type(module).__module__ for module in model.modules()}]
    turned = [names for names in files if ROTARY in names and _is_rotary(names[ROTARY])]
    for names in turned:
        # All models of a file share its function: put in once, so that nobody takes back another's.
        if getattr(names[ROTARY], "func", None) is not _rotary:
            undo.put_name(names, ROTARY, partial(_rotary, names[ROTARY]))
    counts = {"norms": norms, "gates": gates, "dropouts": dropouts}
    found = [*(f"{count} {name}" * bool(count) for name, count in counts.items()), "rotary positions" * bool(turned)]
    return f"on: {', '.join(filter(None, found))}" if any(found) else "off: this model has no layers that they are for"


def _fused_modules(model: nn.Module, undo: Undo) -> tuple[int, int, int]:
    norms = gates = dropouts = 0
    for module in model.modules():
        if (norm := as_norm(module)) is not None:
            undo.put(module, partial(_norm, module, module.forward, *norm))
            norms += 1
        elif (kind := as_gate(module)) is not None:
            undo.put(module, partial(_gate, module, module.forward, kind))
            gates += 1
        elif type(module) is nn.Dropout and 0 < module.p < 1 and not module.inplace:
            undo.put(module, partial(_dropout, module, module.forward))
            dropouts += 1
    return norms, gates, dropouts


@torch.no_grad()
def as_norm(module: Any) -> tuple[float, float] | None:
    """Return epsilon and what is added to the weight, if this module is a root-mean-square norm."""
    weight = getattr(module, "weight", None)
    epsilon = next((value for name in EPSILONS if (value := getattr(module, name, None)) is not None), None)
    if epsilon is None or not isinstance(weight, Tensor) or weight.dim() != 1 or len(list(module.parameters())) != 1:
        return None
    if not weight.is_floating_point() or len(weight) == 0:
        return None
    x = _some_numbers(3, len(weight)) * 0.1  # so small that epsilon tells
    normed = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)
    return next(((epsilon, o) for o in (0.0, 1.0) if _gives(partial(module, x), normed * (o + weight.float()))), None)


@torch.no_grad()
def as_gate(module: Any) -> int | None:
    """Return the number of its activation, if this module is down(activation(gate(x)) * up(x))."""
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")]
    if not all(isinstance(part, nn.Module) for part in parts) or not hasattr(parts[0], "in_features"):
        return None
    dtype = products_dtype(module)
    if dtype is None:
        return None
    gate, up, down, activation = cast("list[Any]", parts)
    x = _some_numbers(3, 64)
    kind = next((i for i, one in enumerate(ACTIVATIONS) if _gives(partial(activation, x), one(x))), None)
    x = _some_numbers(3, gate.in_features).to(dtype)
    whole = kind is not None and _gives(partial(module, x), down(activation(gate(x)) * up(x)))
    return kind if whole else None


@torch.no_grad()
def _is_rotary(function: Callable[..., Any]) -> bool:
    """Tell whether the function turns whole heads, half by half."""
    query, key, cosine, sine = (_some_numbers(1, heads, 3, 8) for heads in (2, 1, 1, 1))

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cosine + torch.cat([-second, first], dim=-1) * sine

    def both() -> Tensor:
        return torch.cat(function(query, key, cosine[0], sine[0]), dim=1)

    return _gives(both, torch.cat([turned(query), turned(key)], dim=1))


def _gives(function: Callable[[], Any], expected: Tensor) -> bool:
    try:
        found = function()
    except Exception:  # whatever a module cannot do with these numbers, it is none of those that are meant
        return False
    same = isinstance(found, Tensor) and (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return same and torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def _some_numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")


def _norm(
    module: Any, plain: Callable[..., Tensor], epsilon: float, offset: float, x: Tensor, *args: Any, **options: Any
) -> Tensor:
    """Run fused; a norm that is given more, as a gate, is called as it is."""
    weight = module.weight
    functions = kernels.of(x, weight) if x.dim() and x.shape[-1:] == weight.shape else None
    more = (args or options) and any(value is not None for value in (*args, *options.values()))
    if more or functions is None or (weight.requires_grad and torch.is_grad_enabled()):
        return plain(x, *args, **options)
    if not torch.is_grad_enabled():  # a step of an answer is a hundred calls of autograd's, if one lets it
        turned = _is_turned(x)
        y = _normed(functions, epsilon, offset, x.transpose(1, 2) if turned else x, weight)
        return y.transpose(1, 2) if turned else y
    found: Tensor = _RMSNorm.apply(x, weight, epsilon, offset, functions)  # type: ignore[no-untyped-call]
    note_recomputing(found, partial(_normed, functions, epsilon, offset), x, weight)
    return found


def _gate(module: Any, plain: Callable[..., Tensor], kind: int, x: Tensor, *args: Any, **options: Any) -> Tensor:
    if args or options or kernels.of(x) is None:
        return plain(x, *args, **options)
    gate, up = module.gate_proj(x), module.up_proj(x)
    functions = kernels.of(gate, up) if gate.shape == up.shape else None
    if functions is None:
        found: Tensor = module.down_proj(module.act_fn(gate) * up)
    elif not torch.is_grad_enabled():
        found = module.down_proj(_gated(functions, kind, gate, up))
    else:
        product = _Gate.apply(gate, up, kind, functions)  # type: ignore[no-untyped-call]
        note_recomputing(product, partial(_gated, functions, kind), gate, up)
        found = module.down_proj(product)
    return found


def _dropout(module: Any, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    functions = kernels.of(x)
    if functions is None or not module.training:
        return plain(x)
    found: Tensor = _Dropout.apply(x, module.p, functions)  # type: ignore[no-untyped-call]
    return found


def _rotary(
    plain: Callable[..., Any], query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, *args: Any, **options: Any
) -> Any:
    functions = kernels.of(query, key, cosine, sine) if _whole(query, key, cosine, sine) else None
    if functions is None or args or options:
        return plain(query, key, cosine, sine, *args, **options)
    cosine, sine = cosine.contiguous(), sine.contiguous()
    if not torch.is_grad_enabled():
        return tuple(_turned(functions, x, cosine, sine, back=False) for x in (query, key))
    return tuple(_Rotary.apply(x, cosine, sine, functions) for x in (query, key))  # type: ignore[no-untyped-call]


def _whole(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> bool:
    """Tell whether heads of one row (1, H, N, d) are turned whole, each half by angles (1, N, d) that do not learn."""
    if query.dim() != 4 or key.dim() != 4 or not cosine.shape == sine.shape == (1, *query.shape[2:]):
        return False
    alike = len(query) == len(key) == 1 and query.shape[2:] == key.shape[2:] and query.shape[3] % 2 == 0
    return alike and not (cosine.requires_grad or sine.requires_grad)


class _RMSNorm(torch.autograd.Function):
    """x (..., D) and weight (D,) -> x / sqrt(mean(x²) + epsilon) * (offset + weight)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, offset: float, functions: Any) -> Tensor:
        ctx.turned = _is_turned(x)
        rows = x.transpose(1, 2) if ctx.turned else x.contiguous()
        inverse = _one_each(rows)
        y = _normed(functions, epsilon, offset, rows, weight, inverse)
        ctx.save_for_backward(rows, weight, inverse)
        ctx.offset, ctx.functions = offset, functions
        return y.transpose(1, 2) if ctx.turned else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        rows, weight, inverse = ctx.saved_tensors
        dy = (gradients[0].transpose(1, 2) if ctx.turned else gradients[0]).contiguous()
        dx = torch.empty_like(rows)
        sizes = inverse.numel(), rows.shape[-1]
        tensors = dy, rows, weight.contiguous(), inverse, dx
        kernels.call(ctx.functions, "rms_norm_backward", *tensors, *sizes, ctx.offset)
        return dx.transpose(1, 2) if ctx.turned else dx, None, None, None, None


def _is_turned(x: Tensor) -> bool:
    """Tell whether heads (B, H, N, d) lie in memory as (B, N, H, d) do."""
    return not x.is_contiguous() and x.dim() == 4 and x.transpose(1, 2).is_contiguous()


def _normed(
    functions: Any, epsilon: float, offset: float, x: Tensor, weight: Tensor, inverse: Tensor | None = None
) -> Tensor:
    rows = x.contiguous()
    y, inverse = torch.empty_like(rows), _one_each(rows) if inverse is None else inverse
    sizes = inverse.numel(), rows.shape[-1]
    kernels.call(functions, "rms_norm", rows, weight.contiguous(), y, inverse, *sizes, epsilon, offset)
    return y


def _one_each(rows: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[:-1], dtype=torch.float32)


class _Gate(torch.autograd.Function):
    """gate and up, each (..., D) -> activation(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: int, functions: Any) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.kind, ctx.functions = kind, functions
        return _gated(functions, kind, gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        tensors = gradients[0].contiguous(), gate, up, dgate, dup
        kernels.call(ctx.functions, "gated_backward", *tensors, gate.numel(), ctx.kind)
        return dgate, dup, None, None


def _gated(functions: Any, kind: int, gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y = torch.empty_like(gate)
    kernels.call(functions, "gated", gate, up, y, y.numel(), kind)
    return y


class _Dropout(torch.autograd.Function):
    """x -> x / (1 - p), or 0 with probability p. What is dropped is drawn again on the way back, not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, functions: Any) -> Tensor:
        ctx.how = kernels.seed(), p
        ctx.functions = functions
        return _dropped(functions, x, *ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _dropped(ctx.functions, gradients[0], *ctx.how), None, None


def _dropped(functions: Any, x: Tensor, seed: int, p: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    kernels.call(functions, "dropout", x, y, x.numel(), seed, p)
    return y


class _Rotary(torch.autograd.Function):
    """x (1, H, N, d), cosine and sine (1, N, d) -> x turned, (1, H, N, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, functions: Any) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.functions = functions
        return _turned(functions, x, cosine, sine, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        cosine, sine = ctx.saved_tensors
        return _turned(ctx.functions, gradients[0], cosine, sine, back=True), None, None, None


def _turned(functions: Any, x: Tensor, cosine: Tensor, sine: Tensor, back: bool) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty_like(x)
    strides = x.stride(1), x.stride(2), y.stride(1), y.stride(2)
    kernels.call(functions, "rotated", x, cosine, sine, y, *x.shape[1:], *strides, back)
    return y
