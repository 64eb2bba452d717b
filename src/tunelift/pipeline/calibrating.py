"""Both sides on validation rows: what temperature and thresholds are chosen by, so that the test has no say in them."""

from __future__ import annotations

import time
from functools import partial

from tunelift.core import randomness
from tunelift.data.splits import Splits
from tunelift.evaluation.measures import measure_for
from tunelift.evaluation.plan import Plan
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.measuring import scored
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import shared_scores
from tunelift.run_files.layout import calibration_of, is_scored

MOST_ROWS = 500
"""Validation rows at most; each costs as much as a test item. data.max_validation is lower unless it is raised."""


def measure_validation(folder: RunFolder, side: str, session: Session, splits: Splits, plan: Plan, seed: int) -> None:
    """Score the side that the model is now on validation rows, where its answers have probabilities."""
    path = calibration_of(folder.paths.side(side))
    if not splits.validation or is_scored(path) or not measure_for(plan).tells_probabilities(plan):
        return
    began = time.monotonic()
    chosen = randomness.sample(splits.validation, MOST_ROWS, f"{seed} calibration")
    score = partial(session.score, chosen, plan, f"{side} on validation")
    scored(path, partial(shared_scores, f"{side}/calibration", session, chosen, plan, score))
    folder.took("calibration", time.monotonic() - began)
