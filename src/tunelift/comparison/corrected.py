"""What a person would have said on average, from a judge's scores of all items and the person's labels of some.

Prediction-powered inference (Angelopoulos et al. 2023, arXiv 2301.09633): the judge's mean over all items is moved by
how far the judge was off where the person spoke. Whatever the judge is, biased or blind, the interval is the person's;
a good judge makes it shorter. How much the judge counts is chosen so that it does not make it longer (PPI++:
Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453).

The labelled items must be drawn at random from all of them. Everything takes many comparisons at once, so that
`benchmarks/judge.py` measures the functions that give the intervals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunelift.comparison.draws import Floats

FEWEST_LABELS = 20
"""Below this an interval that holds 95 times of 100 says next to nothing."""
FEWEST_CLUSTERS = 10
"""That labelled items must come from, where items come in clusters."""


class Corrected(NamedTuple):
    """A mean, the ends of its interval, and how much the judge counted (0 to 1), each of shape (comparisons,)."""

    value: Floats
    low: Floats
    high: Floats
    weight: Floats


def corrected(
    labels: Floats,
    judged: Floats,
    others: Floats,
    scale: tuple[float, float],
    level: float,
    step: float | None = None,
    *,
    clusters: NDArray[np.intp] | None = None,
) -> Corrected:
    """Return the mean of the person's labels over all items, with its interval.

    `labels` and `judged` are the person's and the judge's scores of the labelled items, (comparisons, labelled);
    `others` the judge's of the items without a label, (comparisons, others), of which there may be none. All lie
    within `scale`.

    The interval is Student's, of the labelled items with two added: one that is off as far as it can be to either side
    (as Agresti and Coull 1998 add successes and failures). Few labels look more alike than what they were drawn from,
    and labels that are all alike would have no spread at all. With `step`, the least difference of two graded scores,
    these two are off only as far as any label is, and by one step at least: of graded scores few reach the ends.

    `clusters` are the clusters of the labelled and then of the other items, (labelled + others,): what items of one
    cluster have in common is then drawn once, labelled or not. The interval is never shorter for it.
    """
    few, many = labels.shape[1], others.shape[1]
    weight = _weight(labels, judged, others)
    residual = labels - weight[:, None] * judged
    ends = np.stack([scale[0] - weight * scale[1], scale[1] - weight * scale[0]])
    if step is not None:
        middle = residual.mean(axis=1)
        far = np.maximum(np.abs(residual - middle[:, None]).max(axis=1), step)
        ends = np.stack([middle - far, middle + far])
    both = np.concatenate([residual, ends.T], axis=1)
    count = few + 2
    own = np.var(both, axis=1) * count / (count - (2 if many else 1)) / count  # the weight was chosen: one freedom less
    rest = weight**2 * np.var(others, axis=1, ddof=1) / many if many > 1 else np.zeros_like(own)
    units = (few, many)
    if clusters is not None:
        units = len(np.unique(clusters[:few])), len(np.unique(clusters[few:]))
        off = (both - both.mean(axis=1, keepdims=True)) / count
        of_others = weight[:, None] * (others - others.mean(axis=1, keepdims=True)) / many if many else others
        together = _between(np.concatenate([off[:, :few], of_others], axis=1), clusters) + np.sum(off[:, few:] ** 2, 1)
        wider = np.maximum(together * units[0] / (units[0] - (2 if many else 1)) / (own + rest), 1.0)
        own, rest = own * wider, rest * wider
    freedom = (own + rest) ** 2 / (own**2 / (units[0] - 1) + rest**2 / max(units[1] - 1, 1))
    moved = weight * others.mean(axis=1) if many else np.zeros_like(own)
    # Means of labels are a lattice: an interval that ends between two of its points holds less than it says.
    lattice = (step or (scale[1] - scale[0]) / 2) / 2 / few
    half = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(own + rest) + lattice
    middle = both.mean(axis=1) + moved
    value = np.clip(residual.mean(axis=1) + moved, *scale)
    return Corrected(value, np.maximum(middle - half, scale[0]), np.minimum(middle + half, scale[1]), weight)


def _between(parts: Floats, clusters: NDArray[np.intp]) -> Floats:
    """Return the sum over clusters of the square of what their items' parts, (comparisons, items), come to."""
    _, place = np.unique(clusters, return_inverse=True)
    member = np.zeros((parts.shape[1], place.max() + 1))
    member[np.arange(parts.shape[1]), place] = 1
    return np.asarray(np.sum((parts @ member) ** 2, axis=1))


def _weight(labels: Floats, judged: Floats, others: Floats) -> Floats:
    """Return how much the judge counts, (comparisons,): what makes the variance least, from 0 to 1."""
    few, many = judged.shape[1], others.shape[1]
    if not many:
        return np.zeros(len(labels))
    own, other = (scores - scores.mean(axis=1, keepdims=True) for scores in (labels, judged))
    together = np.sum(own * other, axis=1) / (few - 1)
    spread = np.var(np.concatenate([judged, others], axis=1), axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(spread > 0, together / spread, 0.0) * many / (few + many)
    return np.asarray(np.clip(best, 0.0, 1.0))
