"""Whether a training may compute its frozen products in eight bits: tried on its first rows against the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.core import machine
from tunelift.core.timing import shortest
from tunelift.fast import int8, kernels
from tunelift.fast.compiling import UncompiledError
from tunelift.fast.frozen import SHARE_OF_MEMORY, Weight, frozen_weights
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.parameters import compute_dtype, device_of

LOSS = 0.01
"""The loss in eight bits may be so far from the plain one, relatively."""

COSINE, COSINE_OF_ONE = 0.99, 0.95
"""Of the adapter's gradient with the plain one: over all numbers, and of each tensor."""

DRAWN = 0.02
"""Deviation of the numbers that stand for an adapter's tensor that begins at zero, for a gradient to pass it."""

ROUNDS = 4
"""How often layers that fail are taken out and the others tried again."""

FASTER = 1.1
"""Both products together must be so much faster in eight bits."""

SMALL = 2**17
"""Numbers of a model's largest layer below which products are not where its time goes."""

Gradient = dict[str, Tensor]


def refused(model: Any) -> str | None:
    """Return why the model's products cannot be had in eight bits here, or None."""
    if device_of(model).type != "cpu" or compute_dtype(model) not in kernels.TYPES:
        return "products in int8 are for float32 and bfloat16 on a CPU"
    try:
        native = kernels.library(compute_dtype(model)).int8_lanes() > 0
    except UncompiledError as error:
        return f"products in int8 are compiled here, and {error}"
    return None if native else "this processor has no products in int8"


@torch.no_grad()
def worth(model: Any, tokens: int) -> str:
    """Return "on" where both products of the largest layer, over so many tokens, are faster in int8, else why not."""
    if reason := refused(model):
        return f"no: {reason}"
    weights = [weight.plain for weight in frozen_weights(model).values() if int8.fits(weight.plain)]
    if not weights:
        return "no: the model has no frozen linear layers that it is for"
    largest = max(weights, key=Tensor.numel)
    if largest.numel() < SMALL:
        return "no: the model's layers are too small for it"
    plain, eight = Weight(nn.Linear(1, 1, bias=False)), int8.Int8Weight(largest, None)
    plain.plain = largest
    plain.pack("both")
    own = torch.Generator().manual_seed(0)
    x, dy = (
        torch.randn(tokens, size, generator=own, dtype=torch.float32).to(largest.dtype)
        for size in reversed(largest.shape)
    )
    wide, narrow = shortest(*(lambda one=one: (one.of(x), one.back(dy)) for one in (plain, eight)))
    return "on" if wide >= FASTER * narrow else f"no: products in int8 reach {wide / narrow:.1f} times the speed here"


def take(model: Any, loss: Callable[[], Tensor]) -> str:
    """Let frozen products be computed in eight bits where that is seen to learn the same; return "on" or "off: reason".

    `loss` computes that of the first rows, a scalar. The head, and the layers of tensors whose gradient fails, stay
    wide where they must; the answer names them.
    """
    weights = {name: weight for name, weight in frozen_weights(model).items() if int8.fits(weight.plain)}
    head = _head(model)
    if not weights:
        return "off: the model has no frozen linear layers that it is for"
    everything = [*weights.values(), *([head] if head else [])]
    if 2 * sum(weight.plain.numel() for weight in everything) > SHARE_OF_MEMORY * (machine.usable_bytes() or 0):
        return "off: there is no memory for the weights in eight bits"
    with in_evaluation(model), _moved(model):
        with _looked_at(weights.values()) as largest:
            plain = _asked(model, loss)
        for weight in weights.values():
            weight.eight = int8.Int8Weight(weight.plain, weight.bias, largest.get(id(weight)))
        if head is not None:
            head.tiles = int8.Int8Tiles()
        for _ in range(ROUNDS):
            reason, failing = _apart(plain, _asked(model, loss))
            layers = [name for name in weights if any(tensor.startswith(f"{_of_adapter(name)}.") for tensor in failing)]
            if reason is None:
                break
            if head is not None and head.tiles is not None:
                head.tiles = None
                continue
            for name in layers:
                weights[name].eight = None
    wide = [name for name, weight in weights.items() if weight.eight is None]
    if reason is not None or len(wide) == len(weights):
        for weight in everything:
            weight.eight = weight.tiles = None
        return f"off: {reason or 'no layer learns the same in eight bits'}"
    count = f"on: {len(weights) - len(wide)} layers" + (" and the head" if head is not None and head.tiles else "")
    return f"{count}; wide, as their gradients would differ: {', '.join(wide)}" if wide else count


def _head(model: Any) -> Weight | None:
    """Return the weight of a frozen head of which products are computed here."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = None if head is None else vars(head).get("frozen")
    return found if isinstance(found, Weight) and int8.fits(found.plain[:1]) else None


@contextmanager
def _looked_at(weights: Iterable[Weight]) -> Iterator[dict[int, Tensor]]:
    """Note for a while how large the activations are that each weight is asked for, by column (I,)."""
    largest = dict[int, Tensor]()

    def asked(weight: Weight, x: Tensor) -> Tensor:
        here = x.detach().abs().amax(dim=0).float() if len(x) else x.new_zeros(x.shape[1], dtype=torch.float32)
        before = largest.get(id(weight))
        largest[id(weight)] = here if before is None else torch.maximum(before, here)
        return Weight.of(weight, x)

    weights = list(weights)
    for weight in weights:
        weight.of = partial(asked, weight)  # type: ignore[method-assign]
    try:
        yield largest
    finally:
        for weight in weights:
            del weight.of


def _of_adapter(name: str) -> str:
    """Return the name of the layer that an adapter is on, which holds the frozen one as its base layer."""
    return name.removesuffix(".base_layer")


def _asked(model: Any, loss: Callable[[], Tensor]) -> tuple[float, Gradient]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        total = loss()
        found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    pairs = zip(trained, found, strict=True)
    return float(total.detach()), {name: gradient.float() for name, gradient in pairs if gradient is not None}


def _apart(plain: tuple[float, Gradient], found: tuple[float, Gradient]) -> tuple[str | None, Sequence[str]]:
    """Return how a loss and its gradient are not the plain ones, or None, and the tensors whose gradients are not."""
    (loss, gradient), (other_loss, other) = plain, found
    cosines = {name: _cosine([gradient[name]], [other[name]]) for name in gradient}
    failing = [name for name, cosine in cosines.items() if not cosine >= COSINE_OF_ONE]
    whole = _cosine([*gradient.values()], [*other.values()])
    if not abs(other_loss - loss) <= LOSS * abs(loss):
        return f"in eight bits the loss is {other_loss:.4g} where it is {loss:.4g}", failing
    if failing or not whole >= COSINE:
        worst = min(cosines, key=lambda name: cosines[name])
        return f"in eight bits the gradient differs (cosine {whole:.3f}, {cosines[worst]:.3f} of {worst})", failing
    return None, []


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the cosine of two lists of tensors as one vector each; that of two zeros is 1."""
    along = sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
    sizes = [sum(float(x.square().sum()) for x in tensors) ** 0.5 for tensors in (one, other)]
    return along / (sizes[0] * sizes[1]) if all(sizes) else float(sizes[0] == sizes[1])


@contextmanager
def _moved(model: Any) -> Iterator[None]:
    """Let trained tensors that are all zero hold small numbers for a while."""
    own = torch.Generator().manual_seed(0)
    zeros = [p for p in model.parameters() if p.requires_grad and not p.detach().any()]
    try:
        with torch.no_grad():
            for p in zeros:
                p.copy_(torch.randn(p.shape, generator=own, dtype=torch.float32).mul_(DRAWN))
        yield
    finally:
        with torch.no_grad():
            for p in zeros:
                p.zero_()
