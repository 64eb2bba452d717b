"""Tests and intervals of a paired difference: right/wrong, graded, clustered; and Holm's correction.

Differences are tuned - base, in the metric's own units. numpy and scipy.special only: scipy.stats takes over a second
to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison.draws import Floats
from tunelift.comparison.effect import Effect, members, too_few
from tunelift.comparison.means import bootstrap_extent, mean_of, swap_p, t_extent, wider

__all__ = [
    "Effect",
    "Floats",
    "binary_effect",
    "clustered_effect",
    "discordant",
    "graded_effect",
    "holm",
    "is_binary",
    "mcnemar",
    "paired_effect",
    "tango_interval",
]


def paired_effect(base: Floats, tuned: Floats, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Return the effect by the test that fits: over clusters, McNemar for values that are all 0 or 1, or graded.

    `base` and `tuned` are of shape (items,), with at least one item; `clusters` names each item's cluster, or is None
    where items are independent.
    """
    if clusters is not None:
        return clustered_effect(base, tuned, clusters, level)
    if is_binary(base) and is_binary(tuned):
        return binary_effect(base, tuned, level)
    return graded_effect(base, tuned, level)


def is_binary(values: Floats) -> bool:
    """Return whether every value is 0 or 1."""
    return bool(np.all((values == 0) | (values == 1)))


def binary_effect(base: Floats, tuned: Floats, level: float) -> Effect:
    """McNemar's test (mid-p, and exact) with Tango's score interval, for values that are 0 or 1."""
    rose, fell = discordant(base, tuned)
    exact, mid = mcnemar(rose, fell)
    low, high = tango_interval(rose, fell, len(base), level)
    return Effect(
        difference=(rose - fell) / len(base),
        test="McNemar mid-p",
        interval=(float(low), float(high)),
        p=float(mid),
        p_exact=float(exact),
        rose=rose,
        fell=fell,
    )


def discordant(base: Floats, tuned: Floats) -> tuple[int, int]:
    """Return how many items rose from 0 to 1 and how many fell from 1 to 0."""
    return int(np.sum(tuned > base)), int(np.sum(tuned < base))


def mcnemar(rose: Any, fell: Any) -> tuple[Floats, Floats]:
    """Return the two-sided exact and mid-p values of McNemar's test on the discordant counts.

    Under the null the smaller count is binomial with probability 1/2. The mid-p counts outcomes as likely as the one
    seen by half (Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91). Without discordant pairs both are 1.
    Counts may be arrays of one shape; the values are then of that shape.
    """
    fewer, total = np.minimum(rose, fell), np.add(rose, fell)
    at_most = special.bdtr(fewer, total, 0.5)
    below = np.where(fewer > 0, special.bdtr(np.maximum(fewer - 1, 0), total, 0.5), 0.0)
    equal = np.equal(rose, fell)
    exact = np.where(equal, 1.0, np.minimum(1.0, 2 * at_most))
    mid = np.where(equal, 1.0 - (at_most - below) / 2, at_most + below)
    return exact, np.where(total == 0, 1.0, mid)


def tango_interval(rose: Any, fell: Any, items: Any, level: float) -> tuple[Floats, Floats]:
    """Return the score interval for a difference of paired proportions (Tango 1998, Statistics in Medicine 17:891).

    It holds each difference that the score test does not reject, so it excludes 0 just where McNemar's asymptotic test
    rejects. The bounds are found by halving, which has no rounding to lose at a million items. Counts may be
    arrays of one shape; the bounds are then of that shape.
    """
    gained, lost = np.asarray(rose) / items, np.asarray(fell) / items
    spread = float(special.ndtri((1 + level) / 2)) ** 2 / np.asarray(items, dtype=float)
    estimate = gained - lost
    low = _halve(np.full_like(estimate, -1.0), estimate, gained, lost, spread)
    high = _halve(np.full_like(estimate, 1.0), estimate, gained, lost, spread)
    return low, high


def _halve(outside: Floats, inside: Floats, gained: Floats, lost: Floats, spread: Floats) -> Floats:
    """Close in on the bound between a difference outside the interval (or its end, -1 or 1) and one inside."""
    estimate = inside
    for _ in range(60):
        middle = (outside + inside) / 2
        kept = (estimate - middle) ** 2 <= spread * _null_variance(middle, gained, lost)
        inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
    return (inside + outside) / 2


def _null_variance(difference: Floats, gained: Floats, lost: Floats) -> Floats:
    """Variance per item at a given true difference, at Tango's restricted estimate of the probability of a loss.

    The estimate q is the larger root of 2 q^2 + linear q + constant = 0 (Tango 1998, formula 21, divided by n), in the
    form of the quadratic formula that does not cancel.
    """
    linear = (2 - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear**2 - 8 * constant, 0.0))
    cancelling = linear > 0
    q = np.where(cancelling, -2 * constant / np.where(cancelling, linear + root, 1.0), (root - linear) / 4)
    return np.maximum(2 * q + difference * (1 - difference), 0.0)


def graded_effect(base: Floats, tuned: Floats, level: float) -> Effect:
    """Paired t and studentised bootstrap, of whose intervals the farther ends count.

    Each has nulls that it rejects too often, t where differences are skewed and the bootstrap where they have heavy
    tails or are mostly 0; both at once hardly any (docs/evidence.md). Interval and p are missing for a single item, and
    where every item differs by the same.
    """
    if len(base) == 1:
        return Effect(float(tuned[0] - base[0]), "paired t and bootstrap", missing="a single item shows no spread")
    sums = (tuned - base)[None]
    missing = "the difference is the same for every item, so its spread is not known"
    blank = Effect(float(np.mean(sums)), "paired t and bootstrap", missing=missing)
    return _of_means(blank, sums, np.ones(len(base)), level, _rounding(base, tuned))


def clustered_effect(base: Floats, tuned: Floats, clusters: Sequence[Any], level: float) -> Effect:
    """t and studentised bootstrap over the clusters' sums of differences, for items that come several from one source.

    The farther ends count, as for independent graded items; right/wrong values are treated alike. Variance and degrees
    of freedom are those of `mean_of`: with the usual G-1 for clusters of unequal sizes, a true null was rejected up to
    38% of the time in our simulations. Interval and p are missing for fewer than 8 clusters, and where all have the
    same mean.
    """
    member, count = members(clusters)
    missing = too_few(count) or "the mean difference is the same in every cluster, so its spread is not known"
    blank = Effect(float(np.mean(tuned - base)), "t and bootstrap over clusters", clusters=count, missing=missing)
    if too_few(count):
        return blank
    sums = np.asarray(np.bincount(member, weights=tuned - base), dtype=float)[None]
    sizes = np.bincount(member).astype(float)
    return _of_means(blank, sums, sizes, level, _rounding(base, tuned))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _of_means(blank: Effect, sums: Floats, sizes: Any, level: float, rounding: float) -> Effect:
    """Fill in a blank effect from the units' sums (1, units) and sizes, unless their spread is but rounding."""
    mean = mean_of(sums, sizes)
    if mean.error[0] <= rounding:
        return blank
    extent = wider(t_extent(mean, level), bootstrap_extent(mean, sums, sizes, level))
    return replace(
        blank,
        interval=(float(extent.low[0]), float(extent.high[0])),
        p=float(extent.p[0]),
        p_permutation=float(swap_p(sums)[0]),
        missing=None,
    )


def _rounding(base: Floats, tuned: Floats) -> float:
    """The size below which a spread is rounding error of the subtraction."""
    return 1e-12 * float(max(np.max(np.abs(base)), np.max(np.abs(tuned))))
