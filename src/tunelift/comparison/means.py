"""The mean paired difference of items or clusters: its t interval, its bootstrap interval, and the two together.

Everything takes many comparisons at once, so that the calibration measures the functions that give the verdicts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from tunelift.comparison.draws import RESAMPLES, Floats, beyond, bootstrap_sums, ends, swapped_sums

SKEWNESS = 60.0
"""How much more cautious a seen skewness makes; see `caution`."""


class Mean(NamedTuple):
    """Means and their standard errors, each (comparisons,), and the degrees of freedom behind the errors."""

    value: Floats
    error: Floats
    freedom: float


class Extent(NamedTuple):
    """Interval and two-sided p of each comparison, (comparisons,): p is the level at which the interval meets 0.

    `least` is the smallest p that the method can give.
    """

    low: Floats
    high: Floats
    p: Floats
    least: float = 0.0


def mean_of(sums: Floats, sizes: Floats) -> Mean:
    """Return the mean over all items from each unit's sum (comparisons, units) and its number of items (units,).

    A unit is an item (size 1), or a cluster. Items are weighted alike, so the mean is a ratio of sums over units. Its
    variance is the bias-reduced one (Bell and McCaffrey 2002; Cameron and Miller 2015, section VI,
    doi:10.3368/jhr.50.2.317); for units of one size that is the usual s^2 / units with units - 1 degrees of freedom.
    """
    share = sizes / sizes.sum()
    value = sums.sum(axis=1) / sizes.sum()
    residual = sums - value[:, None] * sizes
    error = np.sqrt(np.sum(residual**2 / (1 - share), axis=1)) / sizes.sum()
    return Mean(value, error * caution(residual, share), _freedom(share))


def caution(residual: Floats, share: Floats) -> Floats:
    """Return by how much the error of each row's mean is enlarged, (comparisons,), from its residuals.

    Few units of a skewed kind look less skewed than they are, and t and bootstrap together are then wrong too often.
    The factor grows with the skewness that is seen and falls with the square of the units (of unequal ones with Kish's
    number of equal ones, 1 / sum of `share` squared). Its constant was chosen by simulation, so that no kind of
    differences in docs/evidence.md is wrong in more than 5.5%.
    """
    units = 1 / np.sum(share**2)
    spread = np.mean(residual**2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.mean(residual**3, axis=1) / spread**1.5
    return np.asarray(1 + SKEWNESS * np.abs(np.where(spread > 0, skewness, 0.0)) / units**2)


def t_extent(mean: Mean, level: float) -> Extent:
    """Return the t interval and p; both nan where the error is 0."""
    half = special.stdtrit(mean.freedom, (1 + level) / 2) * mean.error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * special.stdtr(mean.freedom, -np.abs(mean.value) / mean.error)
    return Extent(mean.value - half, mean.value + half, np.asarray(p, dtype=float))


def bootstrap_extent(mean: Mean, sums: Floats, sizes: Floats, level: float) -> Extent:
    """Return the studentised bootstrap's interval and p (Efron and Tibshirani 1993, chapter 12).

    Each resample of units gives its own t, its mean's distance from the observed one in its own standard error; their
    distribution stands in for Student's, and follows the skewness of the data. A resample without spread counts as 0.
    """
    resampled = _studentised(sums - mean.value[:, None] * sizes, sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = mean.value / mean.error
    lower, upper = ends(resampled, (1 - level) / 2)
    side = np.where(observed < 0, -1.0, 1.0)
    p = np.minimum(1.0, 2 * beyond(resampled * side[:, None], np.abs(observed)))
    low, high = mean.value - upper * mean.error, mean.value - lower * mean.error
    return Extent(low, high, p, least=2 / (RESAMPLES + 1))


def wider(parametric: Extent, bootstrap: Extent) -> Extent:
    """Return the farther of each end, and the larger p, so that a verdict needs both.

    Where no resample lies beyond the observed value, the bootstrap's p is only known to be at most the least it can
    give, and the other p counts alone.
    """
    resolved = bootstrap.p > bootstrap.least * (1 + 1e-9)
    p = np.where(resolved, np.maximum(parametric.p, bootstrap.p), parametric.p)
    return Extent(np.minimum(parametric.low, bootstrap.low), np.maximum(parametric.high, bootstrap.high), p)


def swap_p(sums: Floats) -> Floats:
    """Return the permutation p of the mean: base and tuned swapped at random within each unit, two-sided.

    `sums` is (comparisons, units). Exact where base and tuned are exchangeable; it does not need the items to be many.
    """
    total = sums.sum(axis=1)
    return beyond(np.abs(total[:, None] - 2 * swapped_sums(sums.T)), np.abs(total))


def _studentised(residual: Floats, sizes: Floats) -> Floats:
    """Return each resample's t: residuals of shape (comparisons, units) to (comparisons, RESAMPLES)."""
    count, alike = len(residual), bool(np.all(sizes == sizes[0]))
    shared = np.stack([np.ones_like(sizes), sizes, sizes**2])
    # For units of one size the products are the sums again, which need not be drawn twice.
    products = [] if alike else [residual * sizes]
    drawn = bootstrap_sums(np.concatenate([residual, residual**2, *products, shared]).T)
    units, items, squares = drawn[-3:]
    sums, squared = drawn[:count], drawn[count : 2 * count]
    crossed = sums * sizes[0] if alike else drawn[2 * count : 3 * count]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / items
        variance = (squared - 2 * mean * crossed + mean**2 * squares) * units / (units - 1)
    # A resample of one unit many times over, or of none, has no spread but what rounding leaves.
    spread = variance > 1e-12 * np.sum(residual**2, axis=1, keepdims=True)
    return np.asarray(sums / np.sqrt(np.where(spread, variance, np.inf)))


def _freedom(share: Floats) -> float:
    """Degrees of freedom of the clustered variance; `share` is each unit's share of the items, (units,).

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
