"""The figures that a tool gives for all items together, held against the items that are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.values import number
from tunelift.core.records import Scores


def held_against(scores: Scores, path: Path, tool: str, said: Mapping[str, Any], within: float = 1e-6) -> Scores:
    """Note each metric whose mean over the items is not the figure that the tool itself gives; return the scores.

    `said` is {metric: figure}; what is no number says nothing. A tool may weigh items, count failures as zeros, or take
    the greatest of them: the comparison is about the mean, and a reader of the tool's table should know that.
    """
    for name, figure in said.items():
        entry, theirs = scores.info["metrics"].get(name), number(figure)
        if entry is None or theirs is None or math.isclose(entry["value"], theirs, rel_tol=1e-6, abs_tol=within):
            continue
        scores.info["notes"].append(
            f"{path.name}: {tool} itself gives {theirs:.6g} for {name}; the mean of the {entry['items']} items with a "
            f"score, which is compared, is {entry['value']:.6g}."
        )
    return scores
