"""The unconditional exact test of right/wrong items, and the interval that agrees with it.

Of n items `rose` went from wrong to right and `fell` from right to wrong; both counts together are trinomial. The test
is Suissa and Shuster's (1985, Biometrics 41:361): z = (rose - fell) / sqrt(rose + fell), and p is the largest chance,
over all shares of items that could change (the discordance), of a z at least as far from 0 where neither side is
better. So its size is at most 1 - level whatever the discordance.

The interval inverts exact tests of every other difference. Those need an order of the tables that tells which lie
beyond the one observed; the order is by Tango's score limits (1998, Statistics in Medicine 17:891) taken at the exact
test's own critical value instead of the normal one. A bound is the difference at which the tables that lie beyond have
the chance (1 - level) / 2, at most, over the discordance: Buehler's construction, for this problem by Lloyd and
Moldovan (2007, Statistics in Medicine 26:3369). Tables that the exact test rejects come first in that order, so the
interval excludes 0 where p is below 1 - level; a bound that would exclude 0 where p does not is drawn back to 0.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MOST_EXACT = 2000
"""Items up to which all is exact. Beyond, discordances in the middle are taken at their normal limit, and the interval
is the score interval at the test's critical value."""

_AT_ENDS = 400
"""Beyond MOST_EXACT: changed (or unchanged) items expected, up to which a discordance is looked at exactly."""

_STEP = 0.8  # between two shares that are tried for a bound, in standard deviations of a count; then closer
_FINE_STEP = 0.1  # the same for the test
_REACH = 5.0  # standard deviations of a count that are summed; beyond lie 6e-7
_TIE = 1e-9
_CLOSE = 1e-5  # how closely a bound is found, from outside


class _Mixture(NamedTuple):
    """Binomial weights of numbers of changed items, for discordances that are the squared sines of `angles`."""

    angles: Floats
    changed: Counts
    weight: Floats
    starts: Counts

    def mean(self, chance: Floats) -> Floats:
        """Return the mean at each discordance of a chance given for each number of changed items."""
        return np.add.reduceat(self.weight * chance[self.changed], self.starts)


def test_name(items: int) -> str:
    """Return what the test of so many items is called."""
    return f"{'exact' if items <= MOST_EXACT else 'nearly exact'} unconditional test (Suissa and Shuster)"


def unconditional_p(rose: int, fell: int, items: int) -> float:
    """Return the two-sided p of Suissa and Shuster; 1 where as many rose as fell."""
    if rose == fell:
        return 1.0
    return _largest(abs(rose - fell) / math.sqrt(rose + fell), items)


@lru_cache(maxsize=256)
def critical_value(items: int, level: float) -> float:
    """Return the z from which on the test rejects: between the last that it does not reject and the first that it does.

    It lies above the normal value, so that the size is kept at discordances where few items change.
    """
    low, high = 0.0, math.sqrt(items) + 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _largest(middle, items) < 1 - level else (middle, high)
    return high


def unconditional_interval(rose: int, fell: int, items: int, level: float) -> tuple[float, float]:
    """Return the interval of the share that rose less the share that fell; it excludes 0 just where p < 1 - level."""
    p = unconditional_p(rose, fell, items)
    low = _lower_bound(rose, fell, items, level)
    high = -_lower_bound(fell, rose, items, level)
    return (low, high) if p < 1 - level else (min(low, 0.0), max(high, 0.0))


def score_limit(rose: int, fell: int, items: int, z: float) -> float:
    """Return the least difference that the score test with the critical value `z` does not reject (Tango 1998)."""
    estimate = (rose - fell) / items
    outside, inside = -1.0, estimate
    for _ in range(60):
        middle = (outside + inside) / 2
        reached = _beyond(np.array([rose]), np.array([fell]), items, middle, z, tie=0.0)[0]
        outside, inside = (middle, inside) if reached else (outside, middle)
    return inside


def _largest(z: float, items: int) -> float:
    """Return the largest chance, over the discordance, of a z at least so far from 0 where neither side is better."""
    mixture = _mixture(items)
    changed = np.arange(items + 1) if items <= MOST_EXACT else np.unique(mixture.changed)
    chance = np.zeros(items + 1)
    least = np.ceil((changed + z * np.sqrt(changed)) / 2 - _TIE).astype(np.int64)
    within = (least <= changed) & (changed > 0)  # where nothing changes, z is 0
    some, at_least = changed[within], least[within]
    chance[some] = 2 * special.bdtrc(at_least - 1, some, 0.5)
    means = mixture.mean(chance)
    largest = means.max()
    for _ in range(2):
        mixture = _mixture_at(_around(mixture.angles, means), items)
        means = mixture.mean(chance)
        largest = max(largest, means.max())
    limit = 2 * special.ndtr(-z) if items > MOST_EXACT else 0.0
    return float(min(1.0, max(largest, limit)))


@lru_cache(maxsize=8)
def _mixture(items: int) -> _Mixture:
    """Return the weights over a grid of discordances from 0 to 1."""
    angles = _angles(1.0, items, _FINE_STEP)
    if items > MOST_EXACT:
        shares = np.sin(angles) ** 2
        angles = angles[np.minimum(shares, 1 - shares) * items <= _AT_ENDS]
    return _mixture_at(angles, items)


def _mixture_at(angles: Floats, items: int) -> _Mixture:
    shares = np.sin(angles) ** 2
    row, changed, starts = _windows(shares, items)
    return _Mixture(angles, changed, _binomial(changed, items, shares[row]), starts)


def _angles(most: float, items: int, step: float) -> Floats:
    """Return angles from 0 to a right one; `most` times their squared sines are shares `step` deviations apart.

    Counts of shares near 0, and of what is left near `most`, spread with their square roots, as angles do.
    """
    return np.linspace(0.0, math.pi / 2, max(8, math.ceil(math.pi * (most * items) ** 0.5 / step)))


def _around(angles: Floats, values: Floats) -> Floats:
    """Return nine angles between the neighbours of the one with the largest value."""
    best = int(values.argmax())
    return np.linspace(angles[max(0, best - 1)], angles[min(len(angles) - 1, best + 1)], 9)


def _windows(shares: Floats, items: int) -> tuple[Counts, Counts, Counts]:
    """Return the counts that are summed for each share: their shares' and their own numbers, and where each begins."""
    spread = _REACH * np.sqrt(items * shares * (1 - shares)) + _REACH
    first = np.maximum(0, np.floor(items * shares - spread)).astype(np.int64)
    last = np.minimum(items, np.ceil(items * shares + spread)).astype(np.int64)
    lengths = last - first + 1
    starts = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(shares)), lengths)
    return row, np.arange(lengths.sum()) - starts[row] + first[row], starts


def _binomial(count: Counts, items: int, share: Floats) -> Floats:
    ways = special.gammaln(items + 1) - special.gammaln(count + 1) - special.gammaln(items - count + 1)
    return np.asarray(np.exp(ways + special.xlogy(count, share) + special.xlog1py(items - count, -share)))


def _lower_bound(rose: int, fell: int, items: int, level: float) -> float:
    """Return the exact lower bound of the difference; beyond MOST_EXACT items the score test's."""
    z = critical_value(items, level)
    limit = score_limit(rose, fell, items, z)
    if items > MOST_EXACT or fell == items:
        return limit
    region = _region(items, limit, z, rose, fell)
    return _solve(region, items, (1 - level) / 2, limit, (rose - fell) / items - limit)


def _region(items: int, limit: float, z: float, rose: int, fell: int) -> Counts:
    """Return, for each number of items that fell, how many must rise for the table to lie beyond the one observed."""
    lost = np.arange(items + 1)
    least, most = np.zeros(items + 1, dtype=np.int64), items - lost + 1
    while np.any(least < most):
        middle = (least + most) // 2
        inside = _beyond(middle, lost, items, limit, z, tie=_TIE)
        most = np.where(inside, middle, most)
        least = np.where(inside, least, np.minimum(middle + 1, most))
    least[fell] = min(int(least[fell]), rose)
    return least


def _beyond(rose: Counts, fell: Counts, items: int, difference: float, z: float, tie: float) -> NDArray[np.bool_]:
    """Return whether a table's score statistic against a true difference reaches `z`."""
    variance = _null_variance(difference, rose / items, fell / items)
    excess = (rose - fell) / items - difference
    return np.asarray(excess - z * np.sqrt(variance / items) >= -tie)


def _null_variance(difference: float, gained: Floats, lost: Floats) -> Floats:
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


def _solve(region: Counts, items: int, tail: float, near: float, width: float) -> float:
    """Return the difference at which the region's largest chance, which grows with it, is `tail`, or a hair less.

    It lies close to `near`, in units of `width`. By false position on the chance's logarithm (the Illinois rule).
    """
    at_zero = _excess(region, items, 0.0, tail)
    (low, below), (high, above) = ((0.0, at_zero), (1.0, 1.0)) if at_zero < 0 else ((-1.0, -1.0), (0.0, at_zero))
    guess, step = near, 0.02 * width
    while high - low > _CLOSE:
        if not low + _CLOSE / 4 < guess < high - _CLOSE / 4:
            guess = (low + high) / 2
        found = _excess(region, items, guess, tail)
        if found < 0:
            low, below, above = guess, found, above / 2
        else:
            high, above, below = guess, found, below / 2
        if high - low > 8 * step:
            guess, step = guess - math.copysign(step, found), 8 * step
        else:
            guess = low + (high - low) * below / (below - above)
    return low


def _excess(region: Counts, items: int, difference: float, tail: float) -> float:
    return math.log(max(_chance(region, items, difference), 1e-300) / tail)


def _chance(region: Counts, items: int, difference: float) -> float:
    """Return the region's largest chance at a true difference, over the discordance."""
    most = (1 - abs(difference)) / 2  # the largest share of the rarer change
    angles = _angles(most, items, _STEP)
    chances = _chances(region, items, difference, most * np.sin(angles) ** 2)
    finer = _around(angles, chances)
    return float(max(chances.max(), _chances(region, items, difference, most * np.sin(finer) ** 2).max()))


def _chances(region: Counts, items: int, difference: float, smaller: Floats) -> Floats:
    """Return the region's chance for each of several discordances; `smaller` is the rarer of the two changes' share."""
    falls = smaller + max(0.0, -difference)
    rises = smaller + max(0.0, difference)
    row, fell, starts = _windows(falls, items)
    weight = _binomial(fell, items, falls[row])
    rate = np.clip(rises / np.maximum(1 - falls, 1e-300), 0.0, 1.0)[row]
    least, left = region[fell], items - fell
    tail = np.where(least <= 0, 1.0, special.bdtrc(np.maximum(least - 1, 0), left, rate))
    tail = np.where(least > left, 0.0, tail)
    return np.add.reduceat(weight * tail, starts)
