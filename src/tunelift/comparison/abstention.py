"""What a model is worth that may abstain: how often it is right on the cases that it is surest of.

A threshold of confidence for a share right is chosen on validation rows and looked at on the test's. The whole is told
by the share right over the share of cases answered, and the area under its complement, the risk (AURC; Geifman, Uziel
and El-Yaniv 2019, arXiv 1805.08206). Cases of equal confidence are answered together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tunelift.comparison.calibration_error import wilson_interval
from tunelift.comparison.decisions import Indices
from tunelift.comparison.draws import Floats

TARGETS = (0.9, 0.95, 0.98, 0.99)
"""Shares right for which a threshold is looked for."""

FEWEST_ANSWERED = 20
"""A threshold is chosen only where so many of the validation's cases are answered: fewer show no share of 90%."""

CURVE_POINTS = 40


@dataclass(frozen=True)
class Cases:
    """Decisions of one side: confidence, whether right (0 or 1) and the number of the unit, each (decisions,)."""

    confidence: Floats
    right: Floats
    unit: Indices
    of_sets: bool

    def threshold(self, target: float) -> float | None:
        """Return the lowest confidence from which on at least a share `target` is right, None where none is.

        It lies between the two confidences that it tells apart, and is 0 where all cases can be answered.
        """
        order = np.argsort(-self.confidence, kind="stable")
        ordered = self.confidence[order]
        ends = np.flatnonzero(np.concatenate([np.diff(ordered) != 0, [True]]))
        share = np.cumsum(self.right[order])[ends] / (ends + 1)
        fitting = np.flatnonzero((share >= target) & (ends + 1 >= FEWEST_ANSWERED))
        if not len(fitting):
            return None
        last = int(ends[fitting[-1]])
        if last + 1 == len(ordered):
            return 0.0
        middle = float(ordered[last] + ordered[last + 1]) / 2
        return middle if middle > ordered[last + 1] else float(ordered[last])

    def at(self, threshold: float, level: float) -> dict[str, Any]:
        """Return what answering from a confidence on gives: shares right and answered, with intervals, and counts.

        Of labels of sets "answered" is the share of the labels that apply which are given, and "right" the share of
        those given that apply.
        """
        taken = self.confidence >= threshold
        counted = self.right > 0 if self.of_sets else np.ones(len(taken), dtype=bool)
        right, right_interval = self._share(self.right > 0, taken, level)
        answered, answered_interval = self._share(taken, counted, level)
        return {
            "right": right,
            "right_interval": right_interval,
            "answered": answered,
            "answered_interval": answered_interval,
            "cases": int(taken.sum()),
        }

    def _share(self, part: Any, whole: Any, level: float) -> tuple[float | None, list[float] | None]:
        """Return a share and Wilson's interval for so many units as are of equal size (Kish's effective number).

        That is cautious: it takes the cases of one unit to tell no more than one.
        """
        sizes = np.bincount(self.unit[whole])
        if not sizes.sum():
            return None, None
        share = float(np.mean(part[whole]))
        effective = np.array([sizes.sum() ** 2 / np.sum(sizes.astype(float) ** 2)])
        low, high = wilson_interval(np.array([share]), effective, level)
        return share, [float(low[0]), float(high[0])]

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
        """Return one value for each case, whose mean is the area under the risk over the share answered.

        They are the area and what each case adds to it (its influence function), so that their spread is the area's.
        The risk among cases of equal confidence is that at their end.
        """
        order = np.argsort(-self.confidence, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(self.confidence[order]) != 0]))
        sizes, wrong = np.diff([*starts, len(order)]), 1 - self.right[order]
        seen = np.cumsum(sizes)
        risk = np.cumsum(np.add.reduceat(wrong, starts)) / seen
        # A case moves the risk of its group and of all that follow, towards its own being wrong.
        towards = np.cumsum((sizes / seen)[::-1])[::-1]
        away = np.cumsum((sizes / seen * risk)[::-1])[::-1]
        values = np.empty(len(order))
        values[order] = np.repeat(risk - away, sizes) + wrong * np.repeat(towards, sizes)
        return values
