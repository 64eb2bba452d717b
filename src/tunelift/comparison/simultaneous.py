"""Many questions about the same items, judged together: p after the step-down maximum.

Holm's correction holds whatever the questions have to do with each other, and pays for that: of 990 pairs of 45
models it leaves next to nothing. Differences on the same items are correlated, and their correlation can be
estimated. Westfall and Young's step-down (Resampling-Based Multiple Testing, 1993, chapter 2) compares each p with
the smallest of those not yet rejected, drawn from a multivariate normal law with that correlation (Hothorn, Bretz and
Westfall, Biometrical Journal 50, 2008). Each question's own p comes from its own test; the normal law says how they
go together, and nothing else. A multivariate t, whose questions share one estimate of spread, is not that of pairs
that have one each: it names too many. `benchmarks/many_models.py` counts how often a table of equal models names one as
better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from tunelift.comparison.draws import Floats
from tunelift.comparison.paired_tests import holm

DRAWS = 10_000
_SEED = 20_260_401
_AT_ONCE = 2**22
"""Numbers held at once."""
FEWEST = 100
"""Units below which the correlation is too uncertain, and Holm's correction is used."""


def step_down(p: Sequence[float], differences: Floats) -> list[float]:
    """Return p after the step-down maximum over all questions, in their order, never above Holm's.

    `differences` are those of each unit (an item, or a cluster of items) for each question, (units, questions). By
    Bonferroni's inequality the exact value is at most Holm's; the smaller of both takes out the noise of the draws.
    """
    corrected = holm(list(p))
    units, questions = differences.shape
    if units < FEWEST or questions < 2:
        return corrected
    observed = -special.ndtri(np.clip(np.asarray(p), 1e-300, 1) / 2)
    order = np.argsort(-observed, kind="stable")
    beyond = _beyond(_factor(differences[:, order]), observed[order])
    adjusted = np.maximum.accumulate((beyond + 1) / (DRAWS + 1))
    found = np.empty(questions)
    found[order] = adjusted
    return [min(one, other) for one, other in zip(found.tolist(), corrected, strict=True)]


def _factor(differences: Floats) -> Floats:
    """Return a factor (questions, rank) of the questions' correlation; one that never varies stands alone."""
    centred = differences - differences.mean(axis=0)
    spread = np.sqrt((centred**2).mean(axis=0))
    varies = spread > 0
    scaled = np.where(varies, centred / np.where(varies, spread, 1.0), 0.0) / np.sqrt(len(differences))
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    kept = values > 1e-10 * max(values.max(), 1.0)
    alone = np.eye(len(spread))[:, ~varies]
    return np.concatenate([vectors[:, kept] * np.sqrt(values[kept]), alone], axis=1)


def _beyond(factor: Floats, observed: Floats) -> Floats:
    """Return in how many draws the largest |z| of a question and those behind it reaches what was observed of it."""
    questions, rank = factor.shape
    source = np.random.Generator(np.random.SFC64(_SEED))
    count, some = np.zeros(questions), max(1, _AT_ONCE // max(questions, rank))
    for start in range(0, DRAWS, some):
        size = min(some, DRAWS - start)
        drawn = np.abs(source.standard_normal((size, rank)) @ factor.T)
        largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        count += (largest >= observed).sum(axis=0)
    return count
