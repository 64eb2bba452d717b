"""What is measured: once, kept in its folder, and said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tunelift.core import progress
from tunelift.core.records import Example, Scores
from tunelift.data.splits import Splits
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.verbatim import continues_verbatim
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.pipeline.sharing import shared_scores
from tunelift.run_files.layout import is_scored


def scored(path: Path, score: Callable[[], Scores]) -> Scores:
    """Return the scores in a folder, made now where they are not there yet."""
    if is_scored(path):
        return Scores.read(path)
    scores = score()
    scores.save(path)
    return scores


def say(title: str, scores: Scores) -> None:
    """Tell each metric's value; one that is not finite is none in a file."""
    values = {name: "not finite" if value is None else f"{value:.4g}" for name, value in scores.metrics.items()}
    progress.note(f"{title}: " + ", ".join(f"{name} {value}" for name, value in values.items()))


def measured(folder: RunFolder, side: str, session: Session, splits: Splits, plan: Plan) -> None:
    """Measure one side on the test rows; what this run measured before it was cut off is not measured again."""
    path = folder.paths.side(side)
    if is_scored(path):
        return
    began = time.monotonic()
    score = partial(session.score, splits.test, plan, side)
    scores = shared_scores(side, session, splits.test, plan, score)
    for row in scores.rows:
        if row["id"] in splits.duplicate_of:
            row["duplicate_of"] = splits.duplicate_of[row["id"]]
    scores.info["made_with"]["seed"] = folder.config.train.seed
    scores.save(path)
    folder.took(side, time.monotonic() - began)
    say(side, scores)


def look_for_verbatim(folder: RunFolder, session: Session, examples: Sequence[Example]) -> None:
    """Note the test items that the base continues word for word: a sign that it has seen them."""
    if not session.task.next_token or "verbatim" in folder.manifest:
        return
    seen = continues_verbatim(session.model, session.tokenizer, examples)
    folder.note(verbatim=asdict(seen))
    if seen.found:
        progress.note(
            f"The base continues {len(seen.found)} of {seen.items} test items word for word: "
            "it may have seen them in pre-training."
        )
