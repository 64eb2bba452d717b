"""Are probabilities what they say: of the answers given with 80%, are 80% right?

The error is measured in bins of equally many decisions, as equally wide bins leave some nearly empty. The usual
estimate (Guo et al. 2017, arXiv 1706.04599) averages the absolute gaps between confidence and share right. It is too
high, since chance alone makes gaps, and by more the fewer items a bin has (Roelofs et al. 2022, arXiv 2012.08668): two
models that are perfectly calibrated then differ where one is less sure of itself. Here it is the root of the mean
square of the gaps less what chance adds to the squares (Kumar, Liang and Ma 2019, arXiv 1909.10155), which is 0 for
about half of the perfectly calibrated models. Gaps within a bin that cancel are seen by neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunelift.comparison.decisions import Indices
from tunelift.comparison.draws import Floats

MOST_BINS = 15
UNITS_A_BIN = 20


@dataclass(frozen=True)
class Binned:
    """Decisions of one side: confidence, whether right (0 or 1) and the number of the unit, each (decisions,).

    A unit is an item, or the items of one source: what is resampled.
    """

    confidence: Floats
    right: Floats
    unit: Indices
    units: int

    @cached_property
    def bin(self) -> Indices:
        """The bin of each decision: equally many in each, equal confidences in the same.

        There are as many bins as the number of units allows that have a decision.
        """
        confidence = self.confidence
        count = max(1, min(MOST_BINS, len(np.unique(self.unit)) // UNITS_A_BIN))
        cuts = np.sort(confidence)[[len(confidence) * cut // count for cut in range(1, count)]]
        _, bins = np.unique(np.searchsorted(np.unique(cuts), confidence, side="right"), return_inverse=True)
        return bins

    @cached_property
    def _table(self) -> Floats:
        """Summed right - confidence of each unit in each bin, then how many decisions it has there: (units, 2 bins)."""
        bins = int(self.bin.max()) + 1
        table = np.zeros((2, self.units, bins))
        np.add.at(table[0], (self.unit, self.bin), self.right - self.confidence)
        np.add.at(table[1], (self.unit, self.bin), 1.0)
        return np.concatenate(list(table), axis=1)

    @cached_property
    def _chance(self) -> Floats:
        """The variance of each bin's summed gap, (bins,)."""
        gap, items = np.split(self._table, 2, axis=1)
        units = np.sum(items > 0, axis=0)
        around = gap - items * (gap.sum(axis=0) / items.sum(axis=0))
        return np.asarray(np.sum(around**2, axis=0) * units / np.maximum(units - 1, 1))

    @property
    def error(self) -> float:
        """The calibration error of the decisions as they are."""
        return float(self._of(self._table.sum(axis=0, keepdims=True), times=1)[0])

    def errors(self, weights: Floats) -> Floats:
        """Return the error of each resample, (resamples,); `weights` say how often each unit counts.

        A resample's gaps hold chance twice, its own and that of the sample it is drawn from, so twice is taken off.
        """
        return self._of(weights @ self._table, times=2)

    def _of(self, sums: Floats, times: int) -> Floats:
        gap, items = np.split(sums, 2, axis=1)
        squares = np.sum((gap**2 - times * self._chance) / np.maximum(items, 1), axis=1)
        return np.asarray(np.sqrt(np.maximum(squares / np.maximum(items.sum(axis=1), 1), 0.0)))

    @property
    def uncorrected(self) -> float:
        """The mean absolute gap, weighed by bins' decisions."""
        gaps = np.bincount(self.bin, weights=self.right - self.confidence)
        return float(np.abs(gaps).sum() / len(self.right))

    def points(self, level: float) -> list[dict[str, Any]]:
        """Return the points of the reliability diagram, with Wilson's intervals."""
        items = np.bincount(self.bin)
        confidence, right = (np.bincount(self.bin, weights=x) / items for x in (self.confidence, self.right))
        low, high = wilson_interval(right, items, level)
        return [
            {"confidence": c, "accuracy": r, "items": n, "interval": [a, b]}
            for c, r, n, a, b in zip(*(x.tolist() for x in (confidence, right, items, low, high)), strict=True)
        ]


def wilson_interval(share: Floats, items: NDArray[Any], level: float) -> tuple[Floats, Floats]:
    """Return Wilson's score interval (1927) for shares of so many items, all of one shape."""
    squared = float(special.ndtri((1 + level) / 2)) ** 2 / items
    middle = (share + squared / 2) / (1 + squared)
    half = np.sqrt(share * (1 - share) * squared + squared**2 / 4) / (1 + squared)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
