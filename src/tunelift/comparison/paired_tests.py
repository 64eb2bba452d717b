"""Tests and intervals of a paired difference: right/wrong, graded, clustered; and Holm's correction.

Differences are tuned - base, in the metric's own units. numpy and scipy.special only: scipy.stats takes over a second
to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

FEWEST_CLUSTERS = 8
"""Below this, what the items of so few sources show about other sources is not known."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The paired difference of one metric and what stands behind it.

    `interval` and `p` are None where they cannot be known, and `missing` then says why. `rose` and `fell` count the
    items whose 0 became 1 and whose 1 became 0; they and `p_exact` are there for right/wrong metrics only, and
    `clusters` only where items come in clusters.
    """

    difference: float
    test: str
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_exact: float | None = None
    rose: int | None = None
    fell: int | None = None
    clusters: int | None = None
    missing: str | None = None


def paired_effect(base: Floats, tuned: Floats, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Return the effect by the test that fits: clustered t, McNemar for values that are all 0 or 1, paired t.

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
        p=mid,
        p_exact=exact,
        rose=rose,
        fell=fell,
    )


def discordant(base: Floats, tuned: Floats) -> tuple[int, int]:
    """Return how many items rose from 0 to 1 and how many fell from 1 to 0."""
    return int(np.sum(tuned > base)), int(np.sum(tuned < base))


def mcnemar(rose: int, fell: int) -> tuple[float, float]:
    """Return the two-sided exact and mid-p values of McNemar's test on the discordant counts.

    Under the null the smaller count is binomial with probability 1/2. The mid-p counts outcomes as likely as the one
    seen by half (Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91). Without discordant pairs both are 1.
    """
    total, fewer = rose + fell, min(rose, fell)
    if total == 0:
        return 1.0, 1.0
    at_most = float(special.bdtr(fewer, total, 0.5))
    below = float(special.bdtr(fewer - 1, total, 0.5)) if fewer > 0 else 0.0
    if rose == fell:
        return 1.0, 1.0 - (at_most - below) / 2
    return min(1.0, 2 * at_most), at_most + below


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
    """Paired t test and interval; both are missing for a single item, or where every item differs by the same."""
    differences = tuned - base
    mean = float(np.mean(differences))
    if len(differences) == 1:
        return Effect(mean, "paired t", missing="a single item shows no spread")
    error = float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    if error <= _rounding(base, tuned):
        return Effect(mean, "paired t", missing="the difference is the same for every item, so its spread is not known")
    interval, p = _t_interval(mean, error, len(differences) - 1, level)
    return Effect(mean, "paired t", interval, p)


def clustered_effect(base: Floats, tuned: Floats, clusters: Sequence[Any], level: float) -> Effect:
    """t test and interval over the clusters' sums of differences, for items that come several from one source.

    Items are weighted alike, so the mean is a ratio of sums over clusters. Its variance is the bias-reduced one (Bell
    and McCaffrey 2002; Cameron and Miller 2015, section VI, doi:10.3368/jhr.50.2.317), which for clusters of one size
    is the usual factor G/(G-1) with G-1 degrees of freedom. With G-1 for clusters of unequal sizes, a true null was
    rejected up to 38% of the time in our simulations; see `_cluster_freedom`.
    """
    differences = tuned - base
    mean = float(np.mean(differences))
    _, member = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(member)
    count, test = len(sizes), "t over clusters"
    if count < FEWEST_CLUSTERS:
        missing = f"the items come from {count} cluster{'s' * (count != 1)}, and at least {FEWEST_CLUSTERS} are needed"
        return Effect(mean, test, clusters=count, missing=missing)
    sums = np.bincount(member, weights=differences - mean)
    share = sizes / sizes.sum()
    error = float(np.sqrt(np.sum(sums**2 / (1 - share)))) / len(differences)
    if error <= _rounding(base, tuned):
        missing = "the mean difference is the same in every cluster, so its spread is not known"
        return Effect(mean, test, clusters=count, missing=missing)
    interval, p = _t_interval(mean, error, _cluster_freedom(share), level)
    return Effect(mean, test, interval, p, clusters=count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _cluster_freedom(share: Floats) -> float:
    """Degrees of freedom of the clustered variance; `share` is each cluster's share of the items, (clusters,).

    Satterthwaite's (tr WC)^2 / tr(WCWC), C the covariance of the centred cluster sums and W their weights. C depends
    on how items of a cluster move together (Imbens and Kolesar 2016, doi:10.1162/REST_a_00552, estimate it); it is
    taken here at its limit, where a sum's variance goes with the square of the cluster's size. That is cautious: it is
    the case in which unequal sizes hurt most.
    """
    variance, weight = share**2, 1 / (1 - share)
    # C = diag(variance) + parts @ mix @ parts.T, so that the traces need no matrix of clusters by clusters.
    parts = np.stack([share, variance], axis=1)
    mix = np.array([[variance.sum(), -1.0], [-1.0, 0.0]])
    diagonal = np.sum(parts @ mix * parts, axis=1)
    inner = parts.T @ (weight[:, None] * parts) @ mix
    trace = np.sum(weight * (variance + diagonal))
    squared = np.sum(weight**2 * variance * (variance + 2 * diagonal)) + np.trace(inner @ inner)
    return float(trace**2 / squared)


def _rounding(base: Floats, tuned: Floats) -> float:
    """The size below which a spread is rounding error of the subtraction."""
    return 1e-12 * float(max(np.max(np.abs(base)), np.max(np.abs(tuned))))


def _t_interval(mean: float, error: float, freedom: float, level: float) -> tuple[tuple[float, float], float]:
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    return (mean - half, mean + half), 2 * float(special.stdtr(freedom, -abs(mean) / error))
