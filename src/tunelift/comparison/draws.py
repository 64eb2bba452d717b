"""Resampled sums: the items drawn again with replacement, and base and tuned swapped at random.

A unit is an item, or a cluster of items that stay together. Every resample is a row of weights, so that the sums of any
number of columns over it are one product of matrices; the weights are made block by block and never held together.
The seed is fixed, and the bits are a bit generator's own, which numpy keeps the same in every version: the same
scores give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Draw = Callable[[np.random.SFC64, tuple[int, int]], Floats]
"""Draws weights of shape (resamples, units) from a source of random bits."""

RESAMPLES = 10_000
"""How many resamples an interval or a p rests on."""

_SEED = 20_240_411
_UNITS = 8192
_BLOCK = 2**20
"""Weights held at once: 8 MB."""

_CUTS = np.round(2**16 * special.pdtr(np.arange(8), 1.0)).astype(np.uint16)
"""Where 16 random bits pass from a Poisson weight of 0 to 1, to 2, ... to 8."""


def bootstrap_sums(values: Floats) -> Floats:
    """Return the columns' sums over each bootstrap sample of the units: (units, columns) to (columns, RESAMPLES).

    A unit is taken a Poisson(1) number of times, independently of the others, so a sample's size varies around the
    number of units (a column of ones gives it). Beside drawing that number with replacement it costs a fraction of
    the time and widens a mean's spread by 1/units, which is what the usual bootstrap lacks.
    """
    return _sums(_weights, values)


def swapped_sums(values: Floats) -> Floats:
    """Return the columns' sums over the units that are swapped, each with chance 1/2: (columns, RESAMPLES)."""
    return _sums(_swaps, values)


def bootstrap_weights(units: int, resamples: int) -> Iterator[Floats]:
    """Yield how often each unit is in each bootstrap sample, (some samples, units) at a time."""
    return _blocks(_weights, units, resamples)


def swaps(units: int, resamples: int) -> Iterator[Floats]:
    """Yield which units are swapped, 1 with chance 1/2 and else 0, (some samples, units) at a time."""
    return _blocks(_swaps, units, resamples)


def _blocks(draw: Draw, units: int, resamples: int) -> Iterator[Floats]:
    source, most = np.random.SFC64(_SEED), max(1, _BLOCK // units)
    for start in range(0, resamples, most):
        yield draw(source, (min(most, resamples - start), units))


def beyond(resampled: Floats, observed: Floats) -> Floats:
    """Return the share of resamples (columns, RESAMPLES) at least as large as the value observed in each column.

    What was observed is counted too, and values that differ by rounding count as equal.
    """
    least = observed - 1e-9 * np.abs(observed)
    as_large: Floats = np.sum(resampled >= least[:, None], axis=1, dtype=float)
    share: Floats = (as_large + 1) / (resampled.shape[1] + 1)
    return share


def ends(resampled: Floats, tail: float) -> tuple[Floats, Floats]:
    """Return the values of each column that leave a share `tail` of the resamples below and above, (columns,) each."""
    count = resampled.shape[1]
    rank = max(1, int(tail * (count + 1)))
    ordered = np.partition(resampled, (rank - 1, count - rank), axis=1)
    return ordered[:, rank - 1], ordered[:, count - rank]


def _sums(draw: Draw, values: Floats) -> Floats:
    """Sum over some thousand units at a time, whose values stay in the processor's cache for many resamples."""
    sums, source = np.zeros((values.shape[1], RESAMPLES)), np.random.SFC64(_SEED)
    for part in (values[start : start + _UNITS] for start in range(0, len(values), _UNITS)):
        most = max(1, _BLOCK // len(part))
        for start in range(0, RESAMPLES, most):
            shape = min(most, RESAMPLES - start), len(part)
            sums[:, start : start + shape[0]] += part.T @ draw(source, shape).T
    return sums


def _weights(source: np.random.SFC64, shape: tuple[int, int]) -> Floats:
    bits = _random_bytes(source, 2 * math.prod(shape)).view(np.uint16).reshape(shape)
    weights = np.zeros(shape, np.uint8)
    for cut in _CUTS:
        weights += bits >= cut
    return weights.astype(float)


def _swaps(source: np.random.SFC64, shape: tuple[int, int]) -> Floats:
    count = math.prod(shape)
    return np.unpackbits(_random_bytes(source, count // 8 + 1), count=count).reshape(shape).astype(float)


def _random_bytes(source: np.random.SFC64, count: int) -> NDArray[np.uint8]:
    return source.random_raw(count // 8 + 1).view(np.uint8)[:count]
