"""Items that stand in a file more than once: several answers to one question are one cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tunelift.core.records import content_hash


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
