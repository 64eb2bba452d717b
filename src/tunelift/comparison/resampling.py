"""The paired difference of a corpus-level metric: a value of the counts' sums (macro-F1, BLEU, chrF), or of how all
items stand to each other (correlations), not of items one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison.draws import Floats, beyond, bootstrap_sums, bootstrap_weights, ends, swapped_sums, swaps
from tunelift.comparison.effect import Effect, members, too_few
from tunelift.comparison.means import Extent, Mean, caution, mean_of, t_extent, wider

Value = Callable[[Floats], Floats]
"""From the summed counts of many samples, (samples, columns), to the metric's value of each, (samples,)."""
OfItems = Callable[[Floats, Floats], Floats]
"""From the items' numbers (items, columns) and how often each counts (samples, items) to values (samples,)."""

ITEM_RESAMPLES = 2000
"""Of a metric of how items stand to each other: each resample takes a look at all of them."""
WEIGHTS_AT_ONCE = 2**20


def corpus_effect(base: Floats, tuned: Floats, value: Value, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Return the effect on a metric that `value` computes from the items' summed counts.

    `base` and `tuned` are the counts of each item, (items, columns). Items (with `clusters`, whole clusters) are the
    units of a jackknife, whose standard error gives a t interval, and of a bootstrap, whose percentiles give another;
    the farther ends count, as for means. Interval and p are missing for fewer than 8 items or clusters, and where
    leaving out any one unit changes nothing.
    """
    test, count, sizes = "jackknife t and bootstrap", None, np.ones(len(base))
    if clusters is not None:
        member, count = members(clusters)
        test, sizes = f"{test} over clusters", np.bincount(member).astype(float)
        base, tuned = _by_cluster(base, member), _by_cluster(tuned, member)
    difference = float(_difference(base.sum(0)[None], tuned.sum(0)[None], value)[0])
    missing = too_few(len(base), clusters=count is not None)
    if missing:
        return Effect(difference, test, clusters=count, missing=missing)
    mean = _jackknife(base, tuned, value, sizes)
    if not mean.error[0] > 1e-12 * abs(difference):
        missing = "the difference stays the same whichever item is left out, so its spread is not known"
        return Effect(difference, test, clusters=count, missing=missing)
    columns = base.shape[1]
    drawn = bootstrap_sums(np.concatenate([base, tuned], axis=1)).T
    extent = wider(
        t_extent(mean, level), _percentiles(mean, _difference(drawn[:, :columns], drawn[:, columns:], value), level)
    )
    interval = (float(extent.low[0]), float(extent.high[0]))
    swapped = _swap_p(base, tuned, value, difference)
    return Effect(difference, test, interval, float(extent.p[0]), p_permutation=swapped, clusters=count)


def items_effect(base: Floats, tuned: Floats, value: OfItems, clusters: Sequence[Any] | None, level: float) -> Effect:
    """Return the effect on a metric that `value` computes from all items at once.

    `base` and `tuned` are the numbers of each item, (items, columns). Interval and p are made as `corpus_effect` makes
    them, of fewer resamples, since each of them looks at every item again.
    """
    test, count, member = "jackknife t and bootstrap", None, np.arange(len(base))
    if clusters is not None:
        member, count = members(clusters)
        test = f"{test} over clusters"
    sizes = np.bincount(member).astype(float)

    def difference_of(weights: Floats) -> Floats:
        return value(tuned, weights[:, member]) - value(base, weights[:, member])

    difference = float(difference_of(np.ones((1, len(sizes))))[0])
    missing = too_few(len(sizes), clusters=count is not None)
    if missing:
        return Effect(difference, test, clusters=count, missing=missing)
    left = np.concatenate([difference_of(1.0 - np.eye(len(sizes))[some]) for some in _parts(len(sizes))])
    mean = _jackknife_mean(np.array([difference]), left, sizes)
    if not mean.error[0] > 1e-12 * abs(difference):
        missing = "the difference stays the same whichever item is left out, so its spread is not known"
        return Effect(difference, test, clusters=count, missing=missing)
    drawn = np.concatenate([difference_of(weights) for weights in bootstrap_weights(len(sizes), ITEM_RESAMPLES)])
    extent = wider(t_extent(mean, level), _percentiles(mean, drawn, level))
    interval = (float(extent.low[0]), float(extent.high[0]))
    both = np.concatenate([base, tuned])
    moved = []
    for swapped in swaps(len(sizes), ITEM_RESAMPLES):
        one = swapped[:, member]
        moved.append(value(both, np.hstack([one, 1 - one])) - value(both, np.hstack([1 - one, one])))
    p = float(beyond(np.abs(np.concatenate(moved))[None], np.array([abs(difference)]))[0])
    return Effect(difference, test, interval, float(extent.p[0]), p_permutation=p, clusters=count)


def _parts(units: int) -> Iterator[slice]:
    """Yield slices of so many units that a row of weights for each takes little memory."""
    most = max(1, WEIGHTS_AT_ONCE // units)
    return (slice(start, start + most) for start in range(0, units, most))


def _difference(base: Floats, tuned: Floats, value: Value) -> Floats:
    return np.asarray(value(tuned) - value(base), dtype=float)


def _by_cluster(counts: Floats, member: Any) -> Floats:
    return np.stack([np.bincount(member, weights=column) for column in counts.T], axis=1)


def _jackknife(base: Floats, tuned: Floats, value: Value, sizes: Floats) -> Mean:
    """The difference, and its standard error from the differences that are left when one unit is (Tukey 1958)."""
    total = _difference(base.sum(0)[None], tuned.sum(0)[None], value)
    return _jackknife_mean(total, _difference(base.sum(0) - base, tuned.sum(0) - tuned, value), sizes)


def _jackknife_mean(total: Floats, left: Floats, sizes: Floats) -> Mean:
    units = len(left)
    residual = left - left.mean()
    error = np.sqrt((units - 1) / units * np.sum(residual**2, keepdims=True))
    return Mean(
        total, error * caution(residual[None], sizes / sizes.sum()), mean_of(np.zeros((1, units)), sizes).freedom
    )


def _percentiles(mean: Mean, resampled: Floats, level: float) -> Extent:
    """The percentiles of resampled differences (samples,), at the tails of Student's distribution, not the normal one.

    That widens them where units are few, by as much as a t interval is wider (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789). A resample in which the metric has no value counts as the observed difference.
    """
    resampled = np.where(np.isfinite(resampled), resampled, mean.value)[None]
    tail = float(special.ndtr(float(special.stdtrit(mean.freedom, (1 - level) / 2))))
    beyond_zero = np.minimum(beyond(-resampled, np.zeros(1)), beyond(resampled, np.zeros(1)))
    p = np.minimum(1.0, 2 * special.stdtr(mean.freedom, np.asarray(special.ndtri(beyond_zero))))
    least = 2 * float(special.stdtr(mean.freedom, float(special.ndtri(1 / (resampled.shape[1] + 1)))))
    return Extent(*ends(resampled, tail), p, least)


def _swap_p(base: Floats, tuned: Floats, value: Value, difference: float) -> float:
    """The permutation p: base's and tuned's counts of a unit swapped with chance 1/2; exact if exchangeable."""
    moved = swapped_sums(tuned - base).T
    resampled = np.abs(_difference(base.sum(0) + moved, tuned.sum(0) - moved, value))
    return float(beyond(resampled[None], np.array([abs(difference)]))[0])
