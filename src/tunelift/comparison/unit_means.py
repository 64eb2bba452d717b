"""Means over the decisions of units, of base, tuned and between them, with the intervals of graded metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tunelift.comparison.draws import Floats
from tunelift.comparison.effect import FEWEST_UNITS
from tunelift.comparison.means import bootstrap_extent, mean_of, t_extent, wider

ENOUGH_UNITS = 5000
"""With more, a mean's t interval stands alone."""

Key = tuple[str, str]
"""A side, or "difference", and what is a mean."""


@dataclass(frozen=True)
class UnitMeans:
    """Means, by key: `sums` of the values of each unit and how many it has (`sizes`), each (units,).

    `most` is the largest that a mean of a name can be.
    """

    sums: Mapping[Key, Floats]
    sizes: Mapping[Key, Floats]
    level: float
    most: Mapping[str, float]

    @classmethod
    def of(cls, values: Mapping[Key, tuple[Floats, Floats]], level: float, most: Mapping[str, float]) -> UnitMeans:
        """Take the sums and sizes of "base" and "tuned", and add what is between them."""
        sums, sizes = ({key: both[at] for key, both in values.items()} for at in (0, 1))
        for name in {name for side, name in values if side == "base" and ("tuned", name) in values}:
            base, tuned = values["base", name], values["tuned", name]
            sums["difference", name], sizes["difference", name] = _between(*base, *tuned)
        return cls(sums, sizes, level, most)

    def estimate(self, side: str, name: str) -> dict[str, Any]:
        """Return a side's mean and its interval."""
        value, interval = self._within(side, name, 0.0)
        return {name: value, f"{name}_interval": interval}

    def difference(self, name: str) -> dict[str, Any]:
        """Return tuned - base and its interval."""
        value, interval = self._within("difference", name, -self.most[name])
        return {"difference": value, "interval": interval}

    def _within(self, side: str, name: str, least: float) -> tuple[float, list[float] | None]:
        value, low, high = self._extents[side, name]
        return value, None if math.isnan(low) else [max(low, least), min(high, self.most[name])]

    @cached_property
    def _extents(self) -> dict[Key, tuple[float, float, float]]:
        """Each value and the ends of its interval; no numbers where units are few or alike."""
        alike, found = dict[bytes, list[Key]](), dict[Key, tuple[float, float, float]]()
        for key, sizes in self.sizes.items():
            alike.setdefault(sizes.tobytes(), []).append(key)
        for keys in alike.values():  # of units of the same sizes, which share their resamples
            there = self.sizes[keys[0]] > 0
            sums = np.stack([self.sums[key][there] for key in keys])
            parts = _extents(sums, self.sizes[keys[0]][there], self.level)
            found |= dict(zip(keys, zip(*(part.tolist() for part in parts), strict=True), strict=True))
        return found


def _between(base: Floats, base_sizes: Floats, tuned: Floats, tuned_sizes: Floats) -> tuple[Floats, Floats]:
    """Return sums and sizes of units whose mean is the difference of both means.

    Where the sides have their own numbers of values in a unit, each unit has one value: the difference, and what the
    unit adds to it (its influence function), so that their spread is the difference's.
    """
    if np.array_equal(base_sizes, tuned_sizes):
        return tuned - base, base_sizes
    there = (base_sizes > 0) | (tuned_sizes > 0)
    value, added = 0.0, np.zeros(len(base))
    for sign, sums, sizes in ((1, tuned, tuned_sizes), (-1, base, base_sizes)):
        mean = float(sums.sum() / sizes.sum())
        value += sign * mean
        added += sign * (sums - mean * sizes) / sizes.sum() * there.sum()
    return np.where(there, value + added, 0.0), there.astype(float)


def _extents(sums: Floats, sizes: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """Return values and the ends of their intervals, each (means,), of sums (means, units).

    Many units need no bootstrap: what skewness does to t falls with their root.
    """
    value = sums.sum(axis=1) / sizes.sum()
    low, high = np.full((2, len(sums)), np.nan)
    enough = len(sizes) >= FEWEST_UNITS
    spread = mean_of(sums, sizes).error > 1e-12 if enough else np.zeros(len(sums), dtype=bool)
    if spread.any():  # of values that are all the same it is not known
        mean = mean_of(sums[spread], sizes)
        extent = t_extent(mean, level)
        if len(sizes) <= ENOUGH_UNITS:
            extent = wider(extent, bootstrap_extent(mean, sums[spread], sizes, level))
        low[spread], high[spread] = extent.low, extent.high
    return value, low, high
