"""Methods compared as recipes: over the items and over the seeds that each was trained with.

One training shows one adapter. With several seeds for each of two methods the difference varies for two reasons: other
items, and other trainings. Items and seeds are crossed: every adapter answers every item. The variance of the mean
difference is then at most that of the items' differences, averaged over the seeds, plus that of the seeds', averaged
over the items: what is of both is counted in both, so that the sum is a little too large (Owen, Annals of Applied
Statistics 1, 2007, has the bootstrap of the same). Degrees of freedom are those of the smaller number, nearly always
the seeds' less one: Satterthwaite's (1946) are more, and too many where a few seeds happen to lie close together. With
two or three seeds next to nothing is shown, and rightly so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison.draws import Floats
from tunelift.comparison.effect import members
from tunelift.comparison.measured import measure
from tunelift.comparison.paired_tests import holm
from tunelift.comparison.pairing import Side, clusters_of, join


@dataclass(frozen=True, slots=True)
class RecipeDuel:
    """Two methods over all their seeds: the second's value minus the first's, its interval and p, which is Holm's."""

    one: str
    other: str
    difference: float
    interval: tuple[float, float]
    p: float
    p_adjusted: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return its entry as plain values."""
        parts = {"difference": self.difference, "interval": list(self.interval)}
        return {"one": self.one, "other": self.other, **parts, "p": self.p, "p_adjusted": self.p_adjusted}


@dataclass(frozen=True, slots=True)
class Recipes:
    """The ranks of methods as recipes: 1 plus the number of others that are shown to be better."""

    seeds: int
    ranks: Mapping[str, int]
    duels: Sequence[RecipeDuel]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"seeds": self.seeds, "ranks": dict(self.ranks), "pairs": [duel.to_dict() for duel in self.duels]}


def recipes(
    metric: str, sides: Mapping[str, Sequence[Side]], ids: Collection[str], level: float, *, higher_is_better: bool
) -> Recipes | None:
    """Compare every two methods over the seeds that all have, in the order of their names.

    None where there are fewer than two seeds or methods, a score is missing, or the metric is no mean over items.
    """
    seeds = min(map(len, sides.values()), default=0)
    if seeds < 2 or len(sides) < 2:
        return None
    found = []
    for one, other in combinations(sorted(sides), 2):
        each = [_differences(metric, a, b, ids) for a, b in zip(sides[one][:seeds], sides[other], strict=False)]
        known = [differences for differences in each if differences is not None]
        if len(known) < seeds or len({len(part) for part, _ in known}) > 1:
            return None
        found.append((one, other, crossed(np.stack([part for part, _ in known]), known[0][1], level)))
    adjusted = holm([p for _, _, (_, _, p) in found])
    duels = [RecipeDuel(a, b, *result, corrected) for (a, b, result), corrected in zip(found, adjusted, strict=True)]
    shown = [duel for duel in duels if duel.p_adjusted < 1 - level]
    lost = [duel.one if (duel.difference > 0) == higher_is_better else duel.other for duel in shown]
    return Recipes(seeds, {name: 1 + lost.count(name) for name in sides}, duels)


def crossed(
    differences: Floats, clusters: Sequence[str] | None, level: float
) -> tuple[float, tuple[float, float], float]:
    """Return the mean of differences (seeds, items), its interval and p, over items (or clusters) and seeds."""
    seeds, items = differences.shape
    by_item, by_seed = differences.mean(axis=0), differences.mean(axis=1)
    mean = float(by_item.mean())
    own = np.arange(items) if clusters is None else members(list(clusters))[0]
    pulls = np.bincount(own, weights=by_item - mean)
    units = len(pulls)
    of_items = float(units / max(units - 1, 1) * (pulls**2).sum() / items**2)
    of_seeds = float(by_seed.var(ddof=1) / seeds)
    variance = of_items + of_seeds
    if variance <= 0:  # nothing varies: equal throughout, or different by one number everywhere, which shows nothing
        return mean, (mean, mean), 1.0
    freedom = min(units, seeds) - 1
    error = math.sqrt(variance)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    return mean, (mean - half, mean + half), 2 * float(special.stdtr(freedom, -abs(mean) / error))


def _differences(metric: str, one: Side, other: Side, ids: Collection[str]) -> tuple[Floats, list[str] | None] | None:
    pairs = join(one, other, [key for key in one.rows if key in ids])
    found = measure(metric, one, other, pairs)
    if found.of_set or found.one_sided:
        return None
    base, tuned = found.by_distinct()
    return tuned - base, clusters_of(found.pairs)
