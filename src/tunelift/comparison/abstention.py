"""What a model is worth that may abstain: how often it is right on the cases that it is surest of.

A threshold of confidence for a share right is chosen on validation rows and looked at on the test's. It is the lowest
from which on the share is shown with 90% confidence, by the exact bound for binomials (Clopper and Pearson 1934). The
lowest at which the share is merely seen was short of it in more than half of our simulations, this one in a tenth
(`benchmarks/probabilities.py`).

The whole is told by the share right over the share of cases answered, and by the area under the generalised risk, the
share of all cases that are answered and wrong (AUGRC; Traub et al. 2024, arXiv 2407.01032). The older area under the
share wrong of those answered (AURC) hangs on the few surest cases, and intervals of it held the truth too seldom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunelift.comparison.calibration_error import wilson_interval
from tunelift.comparison.decisions import Indices, Kind
from tunelift.comparison.draws import Floats

TARGETS = (0.9, 0.95, 0.98, 0.99)
"""Shares right for which a threshold is looked for."""

DOUBT = 0.1
"""How often a chosen threshold may be short of the share right that it was chosen for."""

CURVE_POINTS = 40


@dataclass(frozen=True)
class Cases:
    """Decisions of one side: confidence, whether right (0 or 1) and the number of the unit, each (decisions,).

    `of` says what they are; `missed` are the units of what is there and was not given, (missed,).
    """

    confidence: Floats
    right: Floats
    unit: Indices
    of: Kind = "answers"
    missed: Indices | None = None

    @property
    def finds(self) -> bool:
        """Whether a decision says that something is there, such as a label that applies or an entity."""
        return self.of in ("labels", "entities")

    def threshold(self, target: float) -> float | None:
        """Return the lowest confidence from which on a share right of `target` is shown, None where it is nowhere.

        It lies between the two confidences that it tells apart, and is 0 where all cases can be answered. Cases of one
        unit count as Kish's effective number of independent ones.
        """
        order = np.argsort(-self.confidence, kind="stable")
        ordered, cases = self.confidence[order], np.arange(1, len(order) + 1)
        effective = cases / np.cumsum(2 * _before(self.unit[order]) + 1.0) * cases
        right = np.cumsum(self.right[order]) / cases * effective
        bound = special.betaincinv(np.maximum(right, 1e-9), effective - right + 1, DOUBT)
        is_end = np.concatenate([np.diff(ordered) != 0, [True]])
        fitting = np.flatnonzero((bound >= target) & is_end & (right > 0))
        if not len(fitting):
            return None
        last = int(fitting[-1])
        if last + 1 == len(ordered):
            return 0.0
        middle = float(ordered[last] + ordered[last + 1]) / 2
        return middle if middle > ordered[last + 1] else float(ordered[last])

    def at(self, threshold: float, level: float) -> dict[str, Any]:
        """Return what answering from a confidence on gives: shares right and answered, with intervals, and counts.

        Of labels of sets and of entities "answered" is the share of those that are there which are given, and "right"
        the share of those given that are there.
        """
        taken, right_ones = self.confidence >= threshold, self.right > 0
        right, right_interval = _share(right_ones[taken], self.unit[taken], level)
        given, units = taken, self.unit
        if self.finds:
            missed = np.zeros(0, dtype=np.intp) if self.missed is None else self.missed
            given = np.concatenate([taken[right_ones], np.zeros(len(missed), dtype=bool)])
            units = np.concatenate([self.unit[right_ones], missed])
        answered, answered_interval = _share(given, units, level)
        return {
            "right": right,
            "right_interval": right_interval,
            "answered": answered,
            "answered_interval": answered_interval,
            "cases": int(taken.sum()),
        }

    def curve(self) -> list[list[float]]:
        """Return points of (share answered, share right), the surest cases first."""
        order = np.argsort(-self.confidence, kind="stable")
        ends = np.flatnonzero(np.concatenate([np.diff(self.confidence[order]) != 0, [True]]))
        right = np.concatenate([[0.0], np.cumsum(self.right[order])[ends]])
        answered = np.concatenate([[0.0], ends + 1.0])
        count = len(order)
        at = np.unique(np.ceil(np.linspace(1 / CURVE_POINTS, 1, CURVE_POINTS) * count))
        return [[float(n / count), float(r / n)] for n, r in zip(at, np.interp(at, answered, right), strict=True)]

    @property
    def of_area(self) -> Floats:
        """Return one value for each case, whose mean is the area under the generalised risk over the share answered.

        They are the area and what each case adds to it (its influence function), so that their spread is the area's.
        Cases of equal confidence are answered together.
        """
        order = np.argsort(-self.confidence, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(self.confidence[order]) != 0]))
        sizes, wrong = np.diff([*starts, len(order)]), 1 - self.right[order]
        risk = np.cumsum(np.add.reduceat(wrong, starts)) / len(order)  # answered and wrong, where a group is the last
        after = np.cumsum(sizes[::-1])[::-1] / len(order)  # how many cases are answered together with it or later
        area = float(np.sum(sizes * risk) / len(order))
        values = np.empty(len(order))
        values[order] = np.repeat(risk, sizes) + wrong * np.repeat(after, sizes) - area
        return values


def _share(part: NDArray[np.bool_], unit: Indices, level: float) -> tuple[float | None, list[float] | None]:
    """Return a share of cases and Wilson's interval for so many units as are of equal size (Kish's effective number).

    That is cautious: it takes the cases of one unit to tell no more than one.
    """
    if not len(part):
        return None, None
    sizes, share = np.bincount(unit), float(np.mean(part))
    effective = np.array([sizes.sum() ** 2 / np.sum(sizes.astype(float) ** 2)])
    low, high = wilson_interval(np.array([share]), effective, level)
    return share, [float(low[0]), float(high[0])]


def _before(unit: Indices) -> Indices:
    """Return for each place how many before it have the same unit."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(unit[order]) != 0]))
    found = np.empty(len(unit), dtype=np.intp)
    found[order] = np.arange(len(unit)) - np.repeat(starts, np.diff([*starts, len(unit)]))
    return found
