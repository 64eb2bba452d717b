"""Resampled sums: the items drawn again with replacement, and base and tuned swapped at random.

A unit is an item, or a cluster of items that stay together. Every resample is a row of weights, so that the sums of any
number of columns over it are one product of matrices; the weights are made block by block and never held together.
The seed is fixed, and the bits are a bit generator's own, which numpy keeps the same in every version: the same
scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

RESAMPLES = 10_000
"""How many resamples an interval or a p rests on."""

_SEED = 20_240_411
_BLOCK = 2**20
"""Weights held at once: 8 MB."""

_CUTS = np.round(2**16 * special.pdtr(np.arange(8), 1.0)).astype(np.uint16)
"""Where 16 random bits pass from a Poisson weight of 0 to 1, to 2, ... to 8."""


def bootstrap_sums(values: Floats) -> Floats:
    """Return the columns' sums over each bootstrap sample of the units: (units, columns) to (RESAMPLES, columns).

    A unit is taken a Poisson(1) number of times, independently of the others, so a sample's size varies around the
    number of units (a column of ones gives it). Beside drawing that number with replacement it costs a third of the
    time and widens a mean's spread by 1/units, which is what the usual bootstrap lacks.
    """
    return _sums(_weights(len(values)), values)


def swapped_sums(values: Floats) -> Floats:
    """Return the columns' sums over the units that are swapped, each with chance 1/2: (RESAMPLES, columns)."""
    return _sums(_swaps(len(values)), values)


def beyond(resampled: Floats, observed: Floats) -> Floats:
    """Return the share of resamples at least as large as what was observed, itself counted: (columns,).

    `resampled` is (RESAMPLES, columns). Values that differ by rounding count as equal.
    """
    slack = 1e-9 * np.max(np.abs(resampled), axis=0, initial=0.0)
    as_large: Floats = np.sum(resampled >= observed - slack, axis=0, dtype=float)
    return (as_large + 1) / (len(resampled) + 1)


def _sums(blocks: Iterator[Floats], values: Floats) -> Floats:
    return np.concatenate([block @ values for block in blocks])


def _weights(units: int) -> Iterator[Floats]:
    for bits, rows in _random_bytes(units, 2):
        draws = bits.view(np.uint16)[: rows * units].reshape(rows, units)
        weights = np.zeros(draws.shape, np.uint8)
        for cut in _CUTS:
            weights += draws >= cut
        yield weights.astype(float)


def _swaps(units: int) -> Iterator[Floats]:
    for bits, rows in _random_bytes(units, 1 / 8):
        yield np.unpackbits(bits, count=rows * units).reshape(rows, units).astype(float)


def _random_bytes(units: int, bytes_each: float) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield random bytes enough for some rows of units, and how many rows, until there are RESAMPLES."""
    generator = np.random.SFC64(_SEED)
    most = max(1, _BLOCK // units)
    for start in range(0, RESAMPLES, most):
        rows = min(most, RESAMPLES - start)
        words = int(rows * units * bytes_each) // 8 + 1
        yield generator.random_raw(words).view(np.uint8), rows
