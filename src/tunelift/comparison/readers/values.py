"""What all readers share: values as numbers and text, and rows as `Scores`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tunelift.core.errors import InputError
from tunelift.core.records import Scores, as_text
from tunelift.core.text_files import json_object
from tunelift.metrics import direction
from tunelift.run_files.layout import FORMAT

WORDS = {
    **dict.fromkeys(("true", "yes", "correct", "c"), 1.0),
    **dict.fromkeys(("false", "no", "incorrect", "i"), 0.0),
}
"""Words, in any case, that stand for right and wrong."""

MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "-"})
"""Words, in any case, that stand for no value, as spreadsheets and pandas write them."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf(inity)?", re.IGNORECASE)


class Item(NamedTuple):
    """One row as it stands in a file, and where: `results.csv, line 7`."""

    where: str
    row: dict[str, Any]


def number(value: Any) -> float | None:
    """Return a number, a boolean, or text that means one, as a float; None for anything else."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:  # an integer beyond the floats
            return None
    if not isinstance(value, str):
        return None
    word = value.strip().lower()
    if word in WORDS:
        return WORDS[word]
    return float(word) if _NUMBER.fullmatch(word) and word.isascii() else None


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: null, NaN, blank text or a word that stands for it."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: Any) -> str:
    """Return text as it is, nothing for null, and JSON for all else."""
    return "" if value is None else as_text(value)


def nested(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object of that name, an empty one where there is none."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def objects(values: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; none where it is no list."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def items_of(values: Any, where: str, unit: str) -> list[Item]:
    """Return the objects of a list, each with its place; InputError where it is no list of objects or empty."""
    if not isinstance(values, list):
        raise InputError(f"{where}: a JSON list is expected, not {type(values).__name__}.")
    if not values:
        raise InputError(f"{where} holds no rows.", fix="A file of results has one row per item.")
    places = ((f"{where}, {unit} {count}", value) for count, value in enumerate(values, start=1))
    return [Item(place, json_object(value, place)) for place, value in places]


def identifier(value: Any, where: str) -> str:
    """Return an id as text; InputError where it is missing or no text or number."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a table with one id missing makes floats of all
    if is_missing(value) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: the id is {'missing' if is_missing(value) else f'{value!r:.60}'}.")
    return str(value).strip()


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Check the types of what scores.jsonl defines as objects; InputError names the row."""
    for name in ("metrics", "counts", "slices", "label_scores"):
        if not isinstance(row.get(name), dict | None):
            raise InputError(f'{where}: "{name}" must be an object of names and values.')
    for name in ("metrics", "label_scores"):
        beyond = [
            key for key, value in (row.get(name) or {}).items() if isinstance(value, int) and number(value) is None
        ]
        if beyond:
            raise InputError(f'{where}: {beyond[0]} in "{name}" is beyond the numbers that can be computed with.')
    scores = row.get("label_scores") or {}
    if not all(isinstance(score, int | float) for score in scores.values()):
        raise InputError(f'{where}: "label_scores" must hold a log-likelihood for each label.')


def scores_of(
    rows: Sequence[dict[str, Any]],
    path: Path,
    *,
    directions: Mapping[str, bool],
    made_with: Mapping[str, Any],
    notes: Iterable[str] = (),
) -> Scores:
    """Return the rows with their metrics in order of appearance, each with its mean and, where known, its direction."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get("unscored"):
            continue
        for name, value in (row.get("metrics") or {}).items():
            values.setdefault(name, []).append(value)
    metrics: dict[str, dict[str, Any]] = {}
    for name, numbers in values.items():
        finite = [value for value in numbers if math.isfinite(value)]
        mean = math.fsum(finite) / len(finite) if finite else math.nan
        metrics[name] = {"value": mean, "higher_is_better": directions.get(name, direction(name)), "items": len(finite)}
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": sum(1 for row in rows if row.get("unscored")),
        "metrics": metrics,
        "made_with": {key: value for key, value in made_with.items() if value is not None},
        "notes": [f"{path.name}: {note}" for note in notes],
    }
    return Scores(list(rows), info)
