"""The matrix products of one step in which a frozen weight takes part: recorded with their shapes, replayed alone.

What is recorded is what was computed, operation by operation and in order: forward, gradient, and of the head's two
products only the rows and tiles that the step really took. The replay runs the same operations on the same weights.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "mkldnn_linear", "_linear_pointwise")
SMALL = 2**16
"""Elements below which a tensor is no weight of a base model."""


@dataclass(frozen=True, slots=True)
class Product:
    """One operation. Each argument is a weight, kept, or the shape, strides and dtype of an activation, or a value."""

    operation: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    flops: int


@dataclass(frozen=True, slots=True)
class Like:
    """An activation: what is needed to make another one like it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@contextmanager
def recorded(model: nn.Module) -> Iterator[Recorder]:
    """Yield what takes the frozen products of all that is run meanwhile."""
    with Recorder(model) as recorder:
        yield recorder


def _lasting(model: nn.Module) -> set[int]:
    """Return the storages of weights that do not learn, copies in another order or layout among them."""
    alive = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
    tensors = [*model.parameters(), *model.buffers(), *alive]
    large = [t for t in tensors if not t.requires_grad and t.numel() >= SMALL and t.layout == torch.strided]
    return {t.untyped_storage().data_ptr() for t in large}


class Recorder(TorchDispatchMode):
    """The `products` so far, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forget()

    def forget(self) -> None:
        """Begin again: with no products, and with the weights of now, copies that a training made among them."""
        self.weights, self.products = _lasting(self.model), list[Product]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        tensors = [t for t in (*args, *named.values()) if isinstance(t, Tensor)]
        if func.__name__.split(".")[0].rstrip("_") in PRODUCTS and any(map(self._is_weight, tensors)):
            kept = tuple(map(self._kept, args)), {name: self._kept(value) for name, value in named.items()}
            weight = next(filter(self._is_weight, tensors))
            flops = 2 * weight.numel() * (result.numel() // result.shape[-1])
            self.products.append(Product(func, *kept, flops=flops))
        return result

    def _is_weight(self, tensor: Tensor) -> bool:
        if tensor.layout != torch.strided:  # packed for the kernel: nothing but weights is
            return True
        storage = tensor.untyped_storage()
        return tensor.dim() >= 2 and storage.data_ptr() in self.weights

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or self._is_weight(value):
            return value
        return Like(tuple(value.shape), value.stride(), value.dtype)


def replayed(products: list[Product]) -> float:
    """Return the seconds that the products take alone, in their order; activations are made beforehand."""
    made: dict[Like, Tensor] = {}
    calls = [
        (p.operation, [_real(v, made) for v in p.arguments], {name: _real(v, made) for name, v in p.named.items()})
        for p in products
    ]
    began = time.perf_counter()
    with torch.no_grad():
        for operation, arguments, named in calls:
            operation(*arguments, **named)
    return time.perf_counter() - began


def _real(value: Any, made: dict[Like, Tensor]) -> Any:
    if not isinstance(value, Like):
        return value
    if value not in made:
        reach = 1 + sum((n - 1) * step for n, step in zip(value.shape, value.stride, strict=True))
        made[value] = torch.rand(reach).to(value.dtype).as_strided(value.shape, value.stride)
    return made[value]
