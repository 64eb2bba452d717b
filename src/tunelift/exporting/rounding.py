"""A file of what continues text whose weights are rounded, beside the model: what rounding left, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunelift.exporting import evidence, manifest
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.made import Made, Rows


def looked_at(
    made: Made, rows: Rows, folder: Path, there: Callable[[Sequence[Item]], Scores], keeps: str
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return the checks of a rounded file, and its verdict against the model on the test items, as of any two models.

    `there` gives the file's numbers of items, `keeps` says what to write instead where too little is left of what was
    tuned; then there is no verdict. The base rounded alike must have been saved.
    """
    evidence.save(folder, evidence.TUNED_ROUNDED, there(rows.asked.items), rows.about)
    checks = manifest.left(folder, keeps)
    if not all(one["passed"] for one in checks):
        return checks, None
    for side, scores in ((evidence.WHOLE, made.scores(rows.test)), (evidence.ROUNDED, there(rows.test))):
        evidence.save_test(folder, side, evidence.test_rows(rows.names, scores, rows.labels, rows.about))
    return checks, manifest.verdict(folder)
