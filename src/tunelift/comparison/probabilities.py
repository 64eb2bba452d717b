"""Are the probabilities of labels what they say: of the answers given with 80%, are 80% right?

The confidence of an answer is the share of the chosen label in the probability of all labels whose score the row holds.
A score is the label's log-likelihood as a whole, also where labels were ranked by the mean per token: a mean is no
probability of anything.

The calibration error is measured in bins of equally many items, as equally wide bins leave some nearly empty. The usual
estimate (Guo et al. 2017, arXiv 1706.04599) averages the absolute gaps between confidence and share right. It is too
high, since chance alone makes gaps, and by more the fewer items a bin has (Roelofs et al. 2022, arXiv 2012.08668): two
models that are perfectly calibrated then differ where one is less sure of itself. Here it is the root of the mean
square of the gaps less what chance adds to the squares (Kumar, Liang and Ma 2019, arXiv 1909.10155), which is 0 for
about half of the perfectly calibrated models. Gaps within a bin that cancel are seen by neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunelift.comparison.draws import Floats
from tunelift.comparison.pairing import Pair, clusters_of
from tunelift.core.records import ScoreRow

MOST_BINS = 15
UNITS_A_BIN = 20
FEWEST_UNITS = 100
"""With fewer items, or clusters of items, a difference gets no interval: at 60 the interval held the truth in 93% of
simulations where 95% were asked, from 100 on in 95 to 100%."""

RESAMPLES, SEED = 1000, 0
WEIGHTS_AT_ONCE = 2_000_000

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Side:
    """Answers of one side: confidence and whether right (0 or 1), of shape (items,), and the bin each falls into."""

    confidence: Floats
    right: Floats
    bin: Indices
    bins: int

    def sums(self, values: Floats) -> Floats:
        """Return the sum of values of shape (items,) in each bin."""
        return np.bincount(self.bin, weights=values, minlength=self.bins).astype(float)


@dataclass(frozen=True, slots=True)
class _Gaps:
    """One side's bins by unit (an item, or the items of one source): what is resampled.

    `gap` is the sum of right - confidence, `items` the number of items, both (units, bins); `chance` is the variance of
    each bin's summed gap, (bins,).
    """

    gap: Floats
    items: Floats
    chance: Floats

    @property
    def table(self) -> Floats:
        """Gaps, then items: (units, 2 bins)."""
        return np.concatenate([self.gap, self.items], axis=1)

    def error(self, sums: Floats, times: int) -> Floats:
        """Return the calibration errors (selections,) for sums of the table's rows; `times` chance is taken off."""
        gap, items = np.split(sums, 2, axis=1)
        squares = np.sum((gap**2 - times * self.chance) / np.maximum(items, 1), axis=1)
        return np.asarray(np.sqrt(np.maximum(squares / items.sum(axis=1), 0.0)))


def probability_calibration(pairs: Sequence[Pair], level: float, labels: int | None = None) -> dict[str, Any] | None:
    """Return the entry "calibration" of comparison.json, or None where no item has usable label scores on both.

    None, too, where an answer lacks some of the `labels` (how many there are, if that is known): of many labels those
    that could not win were not finished, so the share of the chosen one is not known.

    It has for each side the calibration error and the points of the reliability diagram, with Wilson's intervals at
    `level`, and the difference tuned - base of the errors with a bootstrap interval over items (over clusters, where
    items come in clusters). The interval is None for fewer than 100 items or clusters.
    """
    kept = [item for item in pairs if _has_scores(item.base) and _has_scores(item.tuned)]
    if not kept or any(len(row["label_scores"]) < (labels or 0) for item in kept for row in (item.base, item.tuned)):
        return None
    clusters = clusters_of(kept)
    unit = np.arange(len(kept)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    units = int(unit.max()) + 1
    base, tuned = (_side(rows, units) for rows in zip(*((item.base, item.tuned) for item in kept), strict=True))
    gaps = _gaps(base, unit), _gaps(tuned, unit)
    errors = [float(side.error(side.table.sum(axis=0, keepdims=True), times=1)[0]) for side in gaps]
    difference = errors[1] - errors[0]
    return {
        "base": {"ece": errors[0], "items": len(kept), "bins": _points(base, level)},
        "tuned": {"ece": errors[1], "items": len(kept), "bins": _points(tuned, level)},
        "difference": difference,
        "interval": _interval(gaps[0], gaps[1], difference, level) if units >= FEWEST_UNITS else None,
        "note": _note(base, tuned, kept),
    }


def _has_scores(row: ScoreRow) -> bool:
    """Return whether the chosen label's share can be computed: other labels may be impossible, none may be NaN."""
    prediction, scores = row.get("prediction"), row.get("label_scores") or {}
    if not isinstance(prediction, str) or scores.get(prediction) is None:
        return False
    return math.isfinite(scores[prediction]) and all(score < math.inf for score in scores.values())


def _side(rows: Sequence[ScoreRow], units: int) -> _Side:
    confidence = np.array([_confidence(row) for row in rows])
    right = np.array([float(str(row["prediction"]).strip() == str(row["reference"]).strip()) for row in rows])
    return _Side(confidence, right, *_equal_bins(confidence, units))


def _confidence(row: ScoreRow) -> float:
    """Return the chosen label's share of the labels' summed probabilities."""
    scores = row["label_scores"]
    chosen = scores[row["prediction"]]
    best = max(scores.values())
    return math.exp(chosen - best) / math.fsum(math.exp(score - best) for score in scores.values())


def _equal_bins(confidence: Floats, units: int) -> tuple[Indices, int]:
    """Return each item's bin and how many there are: equally many items in each, equal confidences in the same.

    There are as many bins as `units` allows, the number of items that are independent of each other.
    """
    count = max(1, min(MOST_BINS, units // UNITS_A_BIN))
    cuts = np.sort(confidence)[[len(confidence) * cut // count for cut in range(1, count)]]
    _, bins = np.unique(np.searchsorted(np.unique(cuts), confidence, side="right"), return_inverse=True)
    return bins, int(bins.max()) + 1


def _points(side: _Side, level: float) -> list[dict[str, Any]]:
    items = np.bincount(side.bin, minlength=side.bins)
    confidence, right = side.sums(side.confidence) / items, side.sums(side.right) / items
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


def _gaps(side: _Side, unit: Indices) -> _Gaps:
    shape = (int(unit.max()) + 1, side.bins)
    gap, items = np.zeros(shape), np.zeros(shape)
    np.add.at(gap, (unit, side.bin), side.right - side.confidence)
    np.add.at(items, (unit, side.bin), 1.0)
    units = np.sum(items > 0, axis=0)
    around = gap - items * (gap.sum(axis=0) / items.sum(axis=0))
    return _Gaps(gap, items, np.sum(around**2, axis=0) * units / np.maximum(units - 1, 1))


def _interval(base: _Gaps, tuned: _Gaps, difference: float, level: float) -> list[float]:
    """Return the percentile interval over resamples of the units, both sides of a unit together; bins are kept.

    A resample's gaps hold chance twice, its own and that of the sample it is drawn from, so twice is taken off.
    """
    units, bins = base.gap.shape
    table = np.concatenate([base.table, tuned.table], axis=1)
    generator = np.random.default_rng(SEED)
    rows = max(1, WEIGHTS_AT_ONCE // units)
    found = []
    for start in range(0, RESAMPLES, rows):
        picked = generator.integers(units, size=(min(rows, RESAMPLES - start), units), dtype=np.int32)
        drawn = np.stack([np.bincount(row, minlength=units) for row in picked]).astype(float) @ table
        found.append(tuned.error(drawn[:, 2 * bins :], times=2) - base.error(drawn[:, : 2 * bins], times=2))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2]).tolist()
    return [min(low, difference), max(high, difference)]


def _note(base: _Side, tuned: _Side, pairs: Sequence[Pair]) -> str:
    one, other = (np.abs(side.sums(side.right - side.confidence)).sum() / len(side.right) for side in (base, tuned))
    said = (
        "The calibration error is the root mean square gap between confidence and share right, less what chance adds "
        f"(Kumar et al. 2019); the uncorrected mean absolute gap is {one:.3f} for base and {other:.3f} for tuned."
    )
    rows = [row for item in pairs for row in (item.base, item.tuned)]
    unlikely = sum(row["label_scores"][row["prediction"]] < max(row["label_scores"].values()) for row in rows)
    if unlikely:
        said += (
            f" {unlikely} of {len(rows)} answers are not the likeliest label as a whole, as where labels are ranked by "
            "the mean per token; their confidence is the chosen label's share all the same."
        )
    return said
