"""LoRA linears as one function: y = x Wᵀ + b + s (x Aᵀ) Bᵀ, with nothing kept or written that is not needed.

peft's own layer writes three tensors of the output's size on the way forward (B's product, a scaled copy, the sum) and
as many back. Here the low-rank product is added in place by the matrix product itself. Layers that do more than plain
LoRA on a frozen linear (dropout, DoRA, several adapters, merged weights, quantised bases) keep peft's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def fused_lora(model: nn.Module) -> Iterator[str]:
    """Let peft's LoRA linears run fused for a while; yields "on: N layers" or "off: reason" for the manifest."""
    fused = [module for module in model.modules() if _fusable(module)]
    for module in fused:
        module.forward = partial(_forward, module, module.forward)
    try:
        yield f"on: {len(fused)} layers" if fused else "off: no plain LoRA on frozen linear layers"
    finally:
        for module in fused:
            del module.forward  # the class's own shows again


def _fusable(module: Any) -> bool:
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear or module.fan_in_fan_out:
        return False
    frozen = not any(p.requires_grad for p in module.base_layer.parameters())
    biased = any(layer.bias is not None for layer in module.lora_B.values())
    return frozen and not biased and not module.lora_variant


def _forward(module: Any, plain: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Run fused where this call is plain LoRA, else as peft does."""
    active = module.active_adapters
    if args or kwargs or module.disable_adapters or module.merged or len(active) != 1 or active[0] not in module.lora_A:
        return plain(x, *args, **kwargs)
    name = active[0]
    dropout = module.lora_dropout[name]
    base, a, b = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0 and module.training
    if drops or x.dtype != a.dtype:  # in half precision peft computes the adapter in fp32, which is kept
        return plain(x)
    result: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, a, b, module.scaling[name]
    )
    return result


class _LoraLinear(torch.autograd.Function):
    """x (..., I), weight (O, I), bias (O,) or None, a (r, I), b (O, r) -> (..., O)."""

    @staticmethod
    def forward(  # noqa: PLR0917  torch passes arguments by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = F.linear(rows, a)  # (N, r)
        y = F.linear(rows, weight, bias).addmm_(low, b.t(), alpha=scale)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        rows, low, weight, a, b = ctx.saved_tensors
        dy = grad_outputs[0]
        flat = dy.reshape(-1, dy.shape[-1])
        dlow = (flat @ b).mul_(ctx.scale)  # (N, r)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (flat @ weight).addmm_(dlow, a).view(*dy.shape[:-1], -1)
        return dx, None, None, dlow.t() @ rows, (flat.t() @ low).mul_(ctx.scale), None
