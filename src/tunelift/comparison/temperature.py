"""One number by which scores are divided, so that probabilities mean what they say: temperature scaling.

Guo et al. 2017, arXiv 1706.04599. It changes how sure a model is and never what it answers (of labels that are ranked
by their scores as a whole). It is fitted on validation rows, by the likelihood of what they want.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from tunelift.comparison.decisions import Decisions
from tunelift.comparison.draws import Floats

FEWEST_ROWS = 30
"""With fewer rows of validation no temperature is fitted."""

LEAST, MOST = 0.05, 20.0
STEPS = 60


def fitted_temperature(decisions: Decisions) -> float | None:
    """Return the temperature under which validation rows are likeliest, from 0.05 to 20; None for fewer than 30 rows.

    Its logarithm is taken to be normal around 0 with variance 1 beforehand. Against 30 rows that weighs little, and it
    keeps a model that is right on all of them from being made as sure as can be.
    """
    known = decisions.wanted >= 0
    if len(np.unique(decisions.row[known])) < FEWEST_ROWS:
        return None
    scores, wanted = decisions.scores[known], decisions.wanted[known]
    there = np.isfinite(scores)
    known = there[np.arange(len(wanted)), wanted]  # a wanted label that is impossible is so at every temperature
    scores, wanted, there = scores[known], wanted[known], there[known]
    seen = float(scores[np.arange(len(wanted)), wanted].sum())
    low, high = math.log(1 / MOST), math.log(1 / LEAST)  # of the sharpness, 1 / temperature
    for _ in range(STEPS):
        middle = (low + high) / 2
        sharpness = math.exp(middle)
        if sharpness * (_expected(scores, there, sharpness) - seen) + middle > 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def _expected(scores: Floats, there: Floats, sharpness: float) -> float:
    """Return the summed mean score of the labels under probabilities that are this sharp."""
    shares = special.softmax(np.where(there, scores * sharpness, -np.inf), axis=1)
    return float(np.sum(np.where(there, shares * scores, 0.0)))
