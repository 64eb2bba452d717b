"""What readers of tools' files share: ids that stand for several items, and the figures that tools give themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.values import number
from tunelift.core.records import Scores, content_hash


def told_apart(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each row an id of its own, and rows of one question, whatever their ids, one cluster.

    An id that stands for several questions, as numbers do that begin anew, is followed by the hash of input and
    reference; of repeats with one id the second becomes `17/repeat 2`.
    """
    keyed = [(row, content_hash(row["input"], row["reference"])) for row in rows]
    of_id: dict[str, set[str]] = {}
    for row, key in keyed:
        of_id.setdefault(row["id"], set()).add(key)
    repeated = {key for key, times in Counter(key for _, key in keyed).items() if times > 1}
    seen = Counter[str]()
    found = []
    for row, key in keyed:
        name = row["id"] if len(of_id[row["id"]]) == 1 else f"{row['id']}/{key}"
        seen[name] += 1
        told = {"id": name if seen[name] == 1 else f"{name}/repeat {seen[name]}"}
        found.append(row | told | ({"cluster": key} if key in repeated else {}))
    return found


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
