"""What a test says of one metric: the paired difference, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_CLUSTERS = 8
"""Below this, what the items of so few sources show about other sources is not known."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The paired difference of one metric, tuned - base in the metric's own units, and what stands behind it.

    `interval` and `p` are None where they cannot be known, and `missing` then says why. `rose` and `fell` count the
    items whose 0 became 1 and whose 1 became 0; they and `p_exact` are there for right/wrong metrics of independent
    items only, `p_permutation` (base and tuned swapped at random) for the others, and `clusters` only where items come
    in clusters.
    """

    difference: float
    test: str
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_exact: float | None = None
    p_permutation: float | None = None
    rose: int | None = None
    fell: int | None = None
    clusters: int | None = None
    missing: str | None = None


def members(clusters: Sequence[Any]) -> tuple[NDArray[np.intp], int]:
    """Return the number of each item's cluster, (items,), in order of appearance, and how many clusters there are."""
    numbers: dict[str, int] = {}
    member = [numbers.setdefault(str(name), len(numbers)) for name in clusters]
    return np.array(member, dtype=np.intp), len(numbers)


def too_few(count: int) -> str | None:
    """Return why nothing can be said from so few clusters, or None where they are enough."""
    if count >= FEWEST_CLUSTERS:
        return None
    return f"the items come from {count} cluster{'s' * (count != 1)}, and at least {FEWEST_CLUSTERS} are needed"
