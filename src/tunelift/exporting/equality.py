"""Whether two programs compute the same: log-probabilities of the same tokens, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Scores = Mapping[str, Sequence[float]]
"""By item: the log-probability (nats) of each of its target tokens, or the numbers that a head gives."""

FLOOR = 2e-5
"""Nats: two sound implementations in 32 bits are apart by a few parts in a million (docs/exports.md)."""

FACTOR = 4
"""An export may be apart from the model so many times as far as the base is in the same two programs."""


@dataclass(frozen=True, slots=True)
class Item:
    """One row as token ids.

    Looked at are the log-probabilities of those at the places `targets`, each behind all before it; without targets the
    numbers that a head gives. `segments` are the token types, where it is of two texts.
    """

    name: str
    ids: tuple[int, ...]
    targets: tuple[int, ...] = ()
    segments: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Equality:
    """How far apart two scorers are: the `largest` difference of a token (nats), and the item that shows it."""

    holds: bool
    largest: float
    tolerance: float
    item: str
    items: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; a difference that is no number is null."""
        return asdict(self) | {"largest": self.largest if math.isfinite(self.largest) else None}


def equal(a: Scores, b: Scores, tolerance: float) -> Equality:
    """Compare two scorers token by token. Items that one lacks, and values that are no numbers, never agree."""
    worst, item, tokens = 0.0, "", 0
    for name in [*a, *(name for name in b if name not in a)]:
        ours, theirs = a.get(name, ()), b.get(name, ())
        tokens += len(ours)
        apart = math.inf
        if len(ours) == len(theirs) and ours:
            apart = max((abs(x - y) for x, y in zip(ours, theirs, strict=True)), key=lambda d: (math.isnan(d), d))
            apart = apart if math.isfinite(apart) else math.inf
        if apart > worst or not item:
            worst, item = apart, name
    holds = bool(a) and worst <= tolerance
    return Equality(holds, worst, tolerance, item, len(a), tokens)


def tolerance_of(base: Equality) -> float:
    """Return how far apart an export may be where the base, the same way, is so far: rounding, and nothing else."""
    return max(FLOOR, FACTOR * base.largest)


def share_left(base: Scores, tuned: Scores, rounded_base: Scores, rounded: Scores) -> float | None:
    """Return how much of what tuning changed is there when both are rounded: 1 is all of it, 0 none.

    It is the change after rounding along the change before (least squares over all numbers of all items). None where
    nothing was changed. Looked at are the base's items, which the others have too.
    """
    before, after = (
        [y - x for name in base for x, y in zip(one[name], other[name], strict=True)]
        for one, other in ((base, tuned), (rounded_base, rounded))
    )
    size = math.fsum(x * x for x in before)
    return math.fsum(x * y for x, y in zip(before, after, strict=True)) / size if size else None
