"""What a test says of one metric: the paired difference, and what stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_UNITS = 8
"""Below this, what so few items, or the items of so few sources, show about others is not known (but for right/wrong
items, whose test is exact)."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The paired difference of one metric, tuned - base in the metric's own units, and what stands behind it.

    `interval` and `p` are None where they cannot be known, and `missing` then says why. `rose` and `fell` count the
    items whose 0 became 1 and whose 1 became 0 (in a sign test, whose value rose and fell); they and `p_exact` are
    there for independent items only, `p_permutation` (base and tuned swapped at random) for graded ones, and `clusters`
    only where items come in clusters. `one_sided` counts the items without a finite value on one of the sides, and
    `unknown` those of them without any: interval and p hold for all that these could have. `leaning` is where a p
    without an interval points: the sign of what is compared.
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
    one_sided: int = 0
    unknown: int = 0
    leaning: float | None = None

    @property
    def sign(self) -> int:
        """1 where what was tested lies above 0, -1 below, 0 at it."""
        value = self.difference if self.leaning is None else self.leaning
        return (value > 0) - (value < 0)


def members(clusters: Sequence[Any]) -> tuple[NDArray[np.intp], int]:
    """Return the number of each item's cluster, (items,), in order of appearance, and how many clusters there are."""
    numbers: dict[str, int] = {}
    member = [numbers.setdefault(str(name), len(numbers)) for name in clusters]
    return np.array(member, dtype=np.intp), len(numbers)


def too_few(units: int, clusters: bool) -> str | None:
    """Return why nothing can be said from so few items or clusters, or None where they are enough."""
    if units >= FEWEST_UNITS:
        return None
    unit = f"{'cluster' if clusters else 'item'}{'s' * (units != 1)}"
    found = f"the items come from {units} {unit}" if clusters else f"a verdict would rest on {units} {unit}"
    return f"{found}, and at least {FEWEST_UNITS} are needed"
