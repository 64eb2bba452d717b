"""Two files of rows become pairs: the same items, answered by both sides, or a refusal that says why not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.effect import members
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError, listed
from tunelift.core.records import ScoreRow, Scores, content_of

Source = str | Path | Scores | Sequence[ScoreRow]

MUST_AGREE = ("task", "prompt", "decoding", "label_scoring", "max_length", "spans", "masking")
"""Keys of "made_with" that change what a score means. Model and adapter may differ: that is the comparison."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side's rows by id, in file order, and how they were made; `name` is "base" or "tuned"."""

    name: str
    rows: dict[str, ScoreRow]
    info: Mapping[str, Any]


class Pair(NamedTuple):
    """One row of each side with the same id. Rows of equal input and reference are one `item`, under whatever ids."""

    id: str
    base: ScoreRow
    tuned: ScoreRow
    item: str

    @property
    def cluster(self) -> str | None:
        """The source the item comes from, where either side names it."""
        named = next((row["cluster"] for row in (self.base, self.tuned) if row.get("cluster") is not None), None)
        return None if named is None else str(named)

    @property
    def unscored(self) -> str | None:
        """Why a side was not scored, where one was not."""
        sides = (("base", self.base), ("tuned", self.tuned))
        reasons = [f"{name}: {row['unscored']}" for name, row in sides if row.get("unscored")]
        return f"unscored, {'; '.join(reasons)}" if reasons else None


class LeftOut(NamedTuple):
    """An item that is not compared, and why."""

    id: str
    reason: str


def read_side(source: Source, name: str, columns: Mapping[str, str] | None = None) -> Side:
    """Read one side: a file of scores of any known tool, a folder that holds one (of a run: tuned/), rows, or `Scores`.

    `columns` names columns of a table by what they hold (see `readers.table`). Raises InputError for files that cannot
    be read, rows that do not follow the scores.jsonl contract, and ids that occur twice.
    """
    if isinstance(source, str | Path):
        source = read_scores(Path(source), columns)
    elif not isinstance(source, Scores):
        source = Scores(list(map(dict, source)))
    if columns and "columns" not in source.info:
        raise InputError(f"The {name} side is no table whose columns could be named: a known tool wrote it.")
    if not source.rows:
        raise InputError(f"The {name} side has no rows.", fix="Give one row per item.")
    rows: dict[str, ScoreRow] = {}
    repeated: list[str] = []
    for number, row in enumerate(source.rows, start=1):
        _check_row(row, number, name)
        key = str(row["id"])
        if key in rows:
            repeated.append(key)
        rows[key] = row
    if repeated:
        raise InputError(
            f"The {name} side has ids that occur more than once: {listed(dict.fromkeys(repeated), 5)}.",
            fix="Each item must have an id of its own and one row.",
        )
    return Side(name, rows, source.info)


def pair(base: Side, tuned: Side, *, declared: bool = False) -> tuple[list[Pair], list[LeftOut]]:
    """Join two sides by id and content; return the pairs scored on at least one side, and the items left out.

    `declared` allows sides that were made in different ways: a baseline may have another prompt, or be no model.

    Raises InputError, with every reason found, where the sides do not answer the same items or were not made alike.
    """
    problems = [*_different_items(base, tuned), *([] if declared else _made_differently(base, tuned))]
    if problems:
        fix = "Base and tuned must be evaluated on the same items and in the same way."
        if base.info.get("columns"):
            fix += " A column that holds a model's answers is named by --columns prediction=NAME."
        raise InputError(*problems, fix=fix)
    pairs, left_out = [], []
    for item in join(base, tuned, base.rows):
        if item.base.get("unscored") and item.tuned.get("unscored"):
            left_out.append(LeftOut(item.id, item.unscored or ""))
        else:
            pairs.append(item)
    if not pairs:
        raise InputError(
            f"No item has a score on either side; the first is {left_out[0].reason}.",
            fix='A row needs "metrics" with a number; see "unscored" in the rows for why there is none.',
        )
    return pairs, left_out


def join(base: Side, tuned: Side, ids: Iterable[str]) -> list[Pair]:
    """Return the rows of these ids side by side; both sides have all of them."""
    first: dict[tuple[str, str], str] = {}
    pairs = []
    for key in ids:
        given, wanted = content_of(base.rows[key])
        identity = (given, wanted) if given else ("", f"id {key}")  # where no input is known the id tells an item
        pairs.append(Pair(key, base.rows[key], tuned.rows[key], first.setdefault(identity, key)))
    return pairs


def distinct(pairs: Sequence[Pair]) -> tuple[NDArray[np.intp], int]:
    """Return the number of each pair's item, (pairs,), in order of appearance, and how many items there are."""
    return members([pair.item for pair in pairs])


def clusters_of(pairs: Sequence[Pair]) -> list[str] | None:
    """Return the cluster of each item, in the order of `distinct`, or None where no two items share one.

    An item without a cluster is a cluster of its own; clusters that share an item are one. Raises InputError where the
    sides name different clusters.
    """
    for pair in pairs:
        named = {str(row["cluster"]) for row in (pair.base, pair.tuned) if row.get("cluster") is not None}
        if len(named) > 1:
            raise InputError(f'The item "{pair.id}" is in different clusters: {listed(sorted(named))}.')
    joined: dict[str, str] = {}
    of_item: dict[str, str] = {}
    for pair in pairs:
        label = _root(joined, f"item {pair.item}" if pair.cluster is None else f"cluster {pair.cluster}")
        joined[label] = of_item[pair.item] = _root(joined, of_item.get(pair.item, label))
    labels = [_root(joined, label) for label in of_item.values()]
    return labels if len(set(labels)) < len(labels) else None


def _root(joined: dict[str, str], label: str) -> str:
    """Return the cluster that a cluster was joined to, or itself."""
    while joined.get(label, label) != label:
        label = joined[label]
    return label


def _check_row(row: ScoreRow, number: int, name: str) -> None:
    missing = [key for key in ("id", "input", "reference") if row.get(key) is None]
    if missing:
        raise InputError(
            f"Row {number} of the {name} side lacks {listed(missing)}.",
            fix="A row needs id, input, reference, prediction and metrics (or unscored, with the reason).",
        )
    metrics = row.get("metrics")
    if not isinstance(metrics, Mapping | None):
        raise InputError(
            f'Row {number} of the {name} side has "metrics" that are no object of names and numbers.',
            fix='Write them as {"accuracy": 1, "loss": 0.3}.',
        )
    if not metrics and not row.get("counts") and not row.get("unscored"):
        raise InputError(
            f"Row {number} of the {name} side (id {row['id']}) has neither metrics nor a reason why it is unscored.",
            fix='Add "metrics": {...}, or "unscored": "the reason".',
        )


def _different_items(base: Side, tuned: Side) -> list[str]:
    shared = base.rows.keys() & tuned.rows.keys()
    if not shared:
        some = [f"id {listed(side.rows, 3)}" for side in (base, tuned)]
        return [f"The sides have no item in common: {some[0]} in base, {some[1]} in tuned."]
    problems = []
    for one, other in ((base, tuned), (tuned, base)):
        alone = [key for key in one.rows if key not in other.rows]
        if alone:
            share = f"{len(alone)} of the {len(one.rows)} items in {one.name}"
            problems.append(f"{share} are not in {other.name}: id {listed(alone, 3)}.")
    changed = [key for key in base.rows if key in shared and content_of(base.rows[key]) != content_of(tuned.rows[key])]
    if changed:
        what = "input or reference"
        if named := base.info.get("columns"):
            what = f"{what} ({listed(repr(named[role]) for role in ('input', 'reference') if role in named)})"
        problems.append(f"{len(changed)} items have another {what} in tuned than in base: id {listed(changed, 3)}.")
    return problems


def _made_differently(base: Side, tuned: Side) -> list[str]:
    """Say which keys of "made_with" differ; a key only one side knows is no difference."""
    one, other = (side.info.get("made_with") or {} for side in (base, tuned))
    return [
        f"{key} differs: {json.dumps(one[key])} for base, {json.dumps(other[key])} for tuned."
        for key in MUST_AGREE
        if one.get(key) is not None and other.get(key) is not None and one[key] != other[key]
    ]
