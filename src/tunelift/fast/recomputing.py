"""Tensors that a layer behind need not keep for the way back, since one cheap pass makes them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Recomputing:
    """How a tensor is made again, from tensors that are kept for the way back in any case."""

    make: Callable[..., Tensor]
    kept: tuple[Tensor, ...]
    version: int = 0


def note_recomputing(x: Tensor, make: Callable[..., Tensor], *kept: Tensor) -> None:
    """Note on a tensor that make(*kept) gives its numbers once more."""
    x.recomputing = Recomputing(make, kept, x._version)  # type: ignore[attr-defined]


def recomputing(x: Tensor) -> Recomputing:
    """Return how a tensor is made again: as was noted, unless there is no note or it was written to since."""
    found: Recomputing | None = getattr(x, "recomputing", None)
    return found if found is not None and found.version == x._version else Recomputing(_itself, (x,))


def _itself(x: Tensor) -> Tensor:
    return x
