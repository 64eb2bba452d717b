"""Tests and intervals of a paired difference: right/wrong, graded, clustered; and Holm's correction.

Differences are tuned - base, in the metric's own units. numpy and scipy.special only: scipy.stats takes over a second
to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison.draws import Floats
from tunelift.comparison.effect import Effect, members, too_few
from tunelift.comparison.means import bootstrap_extent, mean_of, swap_p, t_extent, wider
from tunelift.comparison.unconditional import test_name, unconditional_interval, unconditional_p


def paired_effect(base: Floats, tuned: Floats, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Return the effect by the test that fits: over clusters, exact for values that are all 0 or 1, or graded.

    `base` and `tuned` are of shape (items,), with at least one item; `clusters` names each item's cluster, or is None
    where items are independent.
    """
    if clusters is None and is_binary(base) and is_binary(tuned):
        return binary_effect(base, tuned, level)
    return graded_effect(base, tuned, clusters, level)


def is_binary(values: Floats) -> bool:
    """Return whether every value is 0 or 1."""
    return bool(np.all((values == 0) | (values == 1)))


def binary_effect(base: Floats, tuned: Floats, level: float) -> Effect:
    """The unconditional exact test and the interval that agrees with it, for values that are 0 or 1."""
    rose, fell = int(np.sum(tuned > base)), int(np.sum(tuned < base))
    return Effect(
        difference=(rose - fell) / len(base),
        test=test_name(len(base)),
        interval=unconditional_interval(rose, fell, len(base), level),
        p=unconditional_p(rose, fell, len(base)),
        p_exact=mcnemar(rose, fell),
        rose=rose,
        fell=fell,
    )


def mcnemar(rose: int, fell: int) -> float:
    """Return the two-sided conditional exact p of McNemar's test: given how many items changed, the smaller count is
    binomial with probability 1/2 where neither side is better.
    """
    return 1.0 if rose == fell else min(1.0, 2 * float(special.bdtr(min(rose, fell), rose + fell, 0.5)))


def graded_effect(base: Floats, tuned: Floats, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Paired t and studentised bootstrap, of whose intervals the farther ends count.

    Each has nulls that it rejects too often, t where differences are skewed and the bootstrap where they have heavy
    tails or are mostly 0; both at once hardly any (docs/evidence.md). With `clusters`, items that come several from one
    source, both are of the clusters' sums of differences, and right/wrong values are treated alike. Variance and
    degrees of freedom are those of `mean_of`: with the usual G-1 for clusters of unequal sizes, a true null was
    rejected up to 38% of the time in our simulations. Interval and p are missing for fewer than 8 items or clusters,
    and where all differ by the same.
    """
    test = "paired t and bootstrap" if clusters is None else "t and bootstrap over clusters"
    (one, other, size), count = _by_unit([base, tuned, np.ones(len(base))], clusters)
    return _of_means(Effect(float(np.mean(tuned - base)), test, clusters=count), one, other, size, level)


def ratio_effect(
    base: Floats, tuned: Floats, value: Callable[[Any], Any], clusters: Sequence[Any] | None, level: float
) -> Effect:
    """t and studentised bootstrap of a ratio of sums whose weights both sides share, such as a loss by token.

    `base` and `tuned` are nats and weight of each item, (items, 2). An item is then a cluster of as many units as its
    weight, so the tests are those of clusters, over nats by weight. `value` makes the metric's value of these; the
    interval's ends are where base's value would move, base's own being taken as it is.
    """
    (one, other, weight), count = _by_unit([base[:, 0], tuned[:, 0], base[:, 1]], clusters)
    before, after = one.sum() / weight.sum(), other.sum() / weight.sum()
    test = "t and bootstrap of a ratio" + ("" if count is None else " over clusters")
    blank = Effect(float(value(after) - value(before)), test, clusters=count)
    found = _of_means(blank, one, other, weight, level)
    if found.interval is None:
        return found
    low, high = (float(value(before + end) - value(before)) for end in found.interval)
    if not math.isfinite(high - low):
        return replace(found, interval=None, missing="the interval's end is beyond the largest number")
    return replace(found, interval=(low, high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _by_unit(columns: Sequence[Floats], clusters: Sequence[Any] | None) -> tuple[list[Floats], int | None]:
    """Return each column, (items,), summed over clusters, (units,), and how many these are; as it is without any."""
    if clusters is None:
        return list(columns), None
    member, count = members(clusters)
    return [np.asarray(np.bincount(member, weights=column), dtype=float) for column in columns], count


def _of_means(blank: Effect, base: Floats, tuned: Floats, sizes: Floats, level: float) -> Effect:
    """Fill in a blank effect from the units' sums and sizes, (units,), unless they are few or their spread rounding."""
    if missing := too_few(len(sizes), clusters=blank.clusters is not None):
        return replace(blank, missing=missing)
    sums = (tuned - base)[None]
    mean = mean_of(sums, sizes)
    if mean.error[0] <= 1e-12 * float(max(np.max(np.abs(base)), np.max(np.abs(tuned)))):
        what = "item" if blank.clusters is None else "cluster"
        return replace(blank, missing=f"the difference is the same for every {what}, so its spread is not known")
    extent = wider(t_extent(mean, level), bootstrap_extent(mean, sums, sizes, level))
    return replace(
        blank,
        interval=(float(extent.low[0]), float(extent.high[0])),
        p=float(extent.p[0]),
        p_permutation=float(swap_p(sums)[0]),
    )
