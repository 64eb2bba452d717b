"""Whether a training may compute its frozen products in eight bits: tried on its first rows against the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.core import machine
from tunelift.core.timing import shortest
from tunelift.fast import int8, kernels
from tunelift.fast.compiling import UncompiledError
from tunelift.fast.frozen import SHARE_OF_MEMORY, Weight, frozen_weights
from tunelift.fast.undo import acting, in_evaluation
from tunelift.model_facts.parameters import compute_dtype, device_of

LOSS = 0.01
"""The loss in eight bits may be so far from the plain one, relatively."""

COSINE, COSINE_OF_ONE = 0.99, 0.95
"""Of the adapter's gradient with the plain one: over all numbers, and of each tensor."""

PRODUCT = 0.05
"""A layer's product may be so far from the plain one, relatively, over the first ROWS rows that it is asked for."""

ROWS = 64

FASTER = 1.2
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

    `loss` computes that of the first rows, a scalar. Layers whose own products are other ones stay wide, and the head
    where it must; the answer names them.
    """
    weights = {name: weight for name, weight in frozen_weights(model).items() if int8.fits(weight.plain)}
    head = _head(model)
    if not weights:
        return "off: the model has no frozen linear layers that it is for"
    everything = weights_of(model)
    if 2 * sum(weight.plain.numel() for weight in everything) > SHARE_OF_MEMORY * (machine.usable_bytes() or 0):
        return "off: there is no memory for the weights in eight bits"
    with in_evaluation(model), acting(model):
        with _looked_at(weights.values()) as seen:
            plain = _asked(model, loss)
        for weight in weights.values():
            weight.eight = _alike(weight, seen.get(id(weight)))
        if head is not None:
            head.tiles = int8.Int8Tiles()
        while (reason := _apart(plain, _asked(model, loss))) and head is not None and head.tiles is not None:
            head.tiles.back, head.tiles = False, head.tiles if head.tiles.back else None
    wide = [name for name, weight in weights.items() if weight.eight is None]
    if reason is not None or len(wide) == len(weights):
        for weight in everything:
            weight.eight = weight.tiles = None
        return f"off: {reason or 'no layer computes the same in eight bits'}"
    count = f"on: {len(weights) - len(wide)} layers{_said(head)}"
    return f"{count}; wide, as their products would differ: {', '.join(wide)}" if wide else count


def weights_of(model: Any) -> list[Weight]:
    """Return all that may be in eight bits, the head's too."""
    return [*frozen_weights(model).values(), *([head] if (head := _head(model)) else [])]


@contextmanager
def wide(model: Any) -> Iterator[None]:
    """Compute products as the model has them for a while, as what is measured is."""
    weights = weights_of(model)
    eight = [(weight.eight, weight.tiles) for weight in weights]
    try:
        for weight in weights:
            weight.eight = weight.tiles = None
        yield
    finally:
        for weight, (own, tiles) in zip(weights, eight, strict=True):
            weight.eight, weight.tiles = own, tiles


def _alike(weight: Weight, seen: Seen | None) -> int8.Int8Weight | None:
    """Return a weight in eight bits, unless its product with some rows is another one."""
    if seen is None:
        return int8.Int8Weight(weight.plain, weight.bias)
    eight = int8.Int8Weight(weight.plain, weight.bias, seen.largest)
    expected = weight.of(seen.rows)
    return eight if float((eight.of(seen.rows) - expected).norm()) <= PRODUCT * float(expected.norm()) else None


def _said(head: Weight | None) -> str:
    if head is None or head.tiles is None:
        return ""
    return " and the head" if head.tiles.back else " and the head's logits"


def _head(model: Any) -> Weight | None:
    """Return the weight of a frozen head of which products are computed here."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found = None if head is None else vars(head).get("frozen")
    return found if isinstance(found, Weight) and int8.fits(found.plain[:1]) else None


@dataclass(slots=True)
class Seen:
    """How large the activations are that a weight was asked for, by column (I,), and the first rows of them."""

    largest: Tensor
    rows: Tensor


@contextmanager
def _looked_at(weights: Iterable[Weight]) -> Iterator[dict[int, Seen]]:
    """Note for a while what each weight is asked for."""
    found = dict[int, Seen]()

    def asked(weight: Weight, x: Tensor) -> Tensor:
        if len(x):
            rows, here = x.detach(), x.detach().abs().amax(dim=0).float()
            seen = found.setdefault(id(weight), Seen(here, rows[:ROWS].clone()))
            seen.largest = torch.maximum(seen.largest, here)
        return Weight.of(weight, x)

    weights = list(weights)
    for weight in weights:
        weight.of = partial(asked, weight)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        for weight in weights:
            del weight.of


def _asked(model: Any, loss: Callable[[], Tensor]) -> tuple[float, Gradient]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        total = loss()
        found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    pairs = zip(trained, found, strict=True)
    return float(total.detach()), {name: gradient.float() for name, gradient in pairs if gradient is not None}


def _apart(plain: tuple[float, Gradient], found: tuple[float, Gradient]) -> str | None:
    """Return how a loss and its gradient are not the plain ones, or None."""
    (loss, gradient), (other_loss, other) = plain, found
    if not abs(other_loss - loss) <= LOSS * abs(loss):
        return f"in eight bits the loss is {other_loss:.4g} where it is {loss:.4g}"
    if not gradient:
        return "no gradient of the first rows reaches the adapter"
    cosines = {name: _cosine([gradient[name]], [other[name]]) for name in gradient}
    whole = _cosine([*gradient.values()], [*other.values()])
    worst = min(cosines, key=lambda name: cosines[name])
    if cosines[worst] >= COSINE_OF_ONE and whole >= COSINE:
        return None
    return f"in eight bits the gradient differs (cosine {whole:.3f}, {cosines[worst]:.3f} of {worst})"


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the cosine of two lists of tensors as one vector each; that of two zeros is 1."""
    along = sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
    sizes = [sum(float(x.square().sum()) for x in tensors) ** 0.5 for tensors in (one, other)]
    return along / (sizes[0] * sizes[1]) if all(sizes) else float(sizes[0] == sizes[1])
