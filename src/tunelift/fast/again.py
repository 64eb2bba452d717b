"""Tensors that a layer behind need not keep for the way back, since one cheap pass makes them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Again:
    """How a tensor is made again, from tensors that are kept for the way back in any case."""

    make: Callable[..., Tensor]
    kept: tuple[Tensor, ...]


def made_again(x: Tensor, make: Callable[..., Tensor], *kept: Tensor) -> None:
    """Note on a tensor that make(*kept) gives its numbers once more."""
    x.again = Again(make, kept)  # type: ignore[attr-defined]


def again(x: Tensor) -> Again:
    """Return how a tensor is made again: by itself, unless it was noted."""
    found: Again | None = getattr(x, "again", None)
    return found or Again(_itself, (x,))


def _itself(x: Tensor) -> Tensor:
    return x
