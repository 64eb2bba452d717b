"""Tables made by anybody: csv, tsv, and JSON objects; columns are known by the names that people give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.values import Item, check_row, identifier, is_missing, number, scores_of, text
from tunelift.core import text_files
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Scores, content_hash
from tunelift.core.text_table import read_text_table
from tunelift.metrics import HIGHER_IS_BETTER, direction, plain_name

COLUMNS = {
    "id": ("id", "item_id", "item", "doc_id", "question_id", "sample_id", "example_id", "qid"),
    "input": ("input", "prompt", "question", "query", "text"),
    "reference": ("reference", "target", "gold", "label", "expected", "ground_truth", "answer"),
    "prediction": ("prediction", "predicted", "pred", "output", "response", "completion", "generated_text"),
    "group": ("cluster", "group", "passage"),
    "unscored": ("unscored",),
}
"""The names, in any case, that a column may have for each role; of several in one table the first here counts."""

_OF_CONTRACT = ("log_likelihood", "tokens", "label_scores", "counts", "slices", "duplicate_of", "metrics")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column is what: {role: column}, the metrics' columns in order, and those that are kept as they are."""

    roles: Mapping[str, str]
    metrics: Sequence[str]
    kept: Sequence[str]


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> Scores:
    """Read a file of delimited text, as data are read; InputError names the line."""
    table = read_text_table(path)
    named = [name for name in table.header if name]  # pandas' row numbers have no name
    rows = ((line, dict(zip(table.header, fields, strict=True))) for line, fields in table.rows)
    items = [Item(f"{path}, line {line}", {name: row[name] for name in named}) for line, row in rows]
    return read_items(path, items, columns)


def read_items(path: Path, items: Sequence[Item], columns: Mapping[str, str] | None = None) -> Scores:
    """Turn flat rows into `Scores`.

    `columns` says which column has a role ({"reference": "answer"}; an empty name says that none has); for the other
    roles the usual names count, and which column was taken for what is noted. Where no column is an id, input and
    reference must tell all rows apart; their hash is then the id. Raises InputError, naming the line, for rows that
    nothing tells apart, no metric, and a metric that is no number.
    """
    if not items:
        raise InputError(f"{path} holds no rows.", fix="A file of results has one row per item.")
    layout = _layout(items, path, columns or {})
    rows = [_row(item, layout) for item in items]
    notes = _notes(layout, items)
    if "id" not in layout.roles:
        _identify(path, items, rows, layout)
        notes.append("no column is an id, so items are identified by input and reference.")
    scores = scores_of(rows, path, directions={}, made_with={}, notes=notes)
    scores.info["columns"] = dict(layout.roles)
    return scores


def _layout(items: Sequence[Item], path: Path, asked: Mapping[str, str]) -> _Layout:
    columns = list(dict.fromkeys(name for item in items for name in item.row))
    if len(columns) > text_files.MOST_COLUMNS:
        raise text_files.too_many_columns(str(path), len(columns))
    roles = _roles(columns, path, asked)
    others = [name for name in columns if name not in roles.values()]
    metrics = [name for name in others if name not in _OF_CONTRACT and _is_metric(name, items)]
    metrics.sort(key=_place)
    if not metrics and "metrics" not in columns:
        raise InputError(
            f"{path}: no column holds a metric. Its columns: {listed(columns)}.",
            fix='Add a column of numbers, such as "correct" with 1 or 0 for each item.',
        )
    return _Layout(roles, metrics, [name for name in others if name not in metrics and name != "metrics"])


def _roles(columns: Sequence[str], path: Path, asked: Mapping[str, str]) -> dict[str, str]:
    """Return {role: column}: as asked, and by the usual names for roles that were not asked for."""
    problems = [
        f'There is no role "{role}".{did_you_mean(role, list(COLUMNS))}' for role in asked if role not in COLUMNS
    ]
    problems += [
        f'{path} has no column "{name}" to be the {role}.{did_you_mean(name, columns)}'
        for role, name in asked.items()
        if name and name not in columns
    ]
    if problems:
        raise InputError(*problems, fix=f"Roles: {listed(COLUMNS)}. Columns: {listed(columns)}.")
    taken = {name for name in asked.values() if name}
    by_name = {name.strip().lower().replace(" ", "_"): name for name in reversed(columns) if name not in taken}
    usual = {
        role: by_name[name]
        for role, names in COLUMNS.items()
        if role not in asked and (name := next((name for name in names if name in by_name), None)) is not None
    }
    return {role: name for role in COLUMNS if (name := asked.get(role) or usual.get(role))}


def _is_metric(name: str, items: Iterable[Item]) -> bool:
    """Return whether all cells of a column are numbers, or its name says that they must be."""
    values = [item.row.get(name) for item in items]
    present = [value for value in values if not is_missing(value)]
    return bool(present) and (direction(name) is not None or all(number(value) is not None for value in present))


def _place(name: str) -> int:
    """Return where a metric stands among the others: well-known names come first, in their order."""
    plain = plain_name(name)
    if plain in HIGHER_IS_BETTER:
        return HIGHER_IS_BETTER.index(plain)
    return len(HIGHER_IS_BETTER) + (direction(name) is None)


def _row(item: Item, layout: _Layout) -> dict[str, Any]:
    cells, roles = item.row, layout.roles
    row: dict[str, Any] = {name: cells[name] for name in layout.kept if not is_missing(cells.get(name))}
    check_row(row, item.where)
    if "id" in roles:
        row["id"] = identifier(cells.get(roles["id"]), item.where)
    for role in ("input", "reference", "prediction"):
        row[role] = text(cells.get(roles[role])) if role in roles else ""
    if "group" in roles and not is_missing(cluster := cells.get(roles["group"])):
        row["cluster"] = text(cluster)
    row["metrics"] = _metrics(item, layout.metrics)
    reason = cells.get(roles["unscored"]) if "unscored" in roles else None
    if not is_missing(reason) and number(reason) != 0:
        row["unscored"] = text(reason)
    elif not row["metrics"] and "counts" not in row:
        row["unscored"] = "it has no value of any metric"
    return row


def _metrics(item: Item, names: Sequence[str]) -> dict[str, float]:
    nested = item.row.get("metrics")
    if not isinstance(nested, dict | None):
        raise InputError(f'{item.where}: "metrics" must be an object such as {{"accuracy": 1}}.')
    found = {}
    for name, value in [*((name, item.row.get(name)) for name in names), *(nested or {}).items()]:
        if is_missing(value):
            continue
        parsed = number(value)
        if parsed is None:
            raise InputError(
                f"{item.where}: {name} is {value!r:.60}, which is no number.",
                fix="A metric is a number, or one of: true, false, yes, no, correct, incorrect, C, I.",
            )
        found[name] = parsed
    return found


def _notes(layout: _Layout, items: Sequence[Item]) -> list[str]:
    taken = [
        f'"{column}" is the {role}' for role, column in layout.roles.items() if column not in (role, COLUMNS[role][0])
    ]
    notes = [f"{listed(taken)}; --columns reference=NAME says otherwise, and so for each."] if taken else []
    lacking = [role for role in ("input", "reference") if role not in layout.roles]
    if lacking and "id" in layout.roles:
        whole = "items are identified by their id alone" if len(lacking) == 2 else "items are identified without it"
        notes.append(f"no column is the {' or the '.join(lacking)}, so {whole}.")
    for name in layout.kept:  # of a column that holds numbers in most rows: a word there would move the headline
        present = [item for item in items if not is_missing(item.row.get(name))]
        words = [item for item in present if number(item.row[name]) is None]
        if name not in _OF_CONTRACT and words and 2 * len(words) < len(present):
            word = f"{words[0].row[name]!r:.40}"
            notes.append(f'"{name}" is not compared: {words[0].where} holds {word}, which is no number.')
    return notes


def _identify(path: Path, items: Sequence[Item], rows: Sequence[dict[str, Any]], layout: _Layout) -> None:
    """Give each row the hash of its content as id; InputError where that does not tell all rows apart."""
    fix = 'Add a column "id" that names the item, the same in both files. Line numbers would pair wrong items silently.'
    if "input" not in layout.roles:
        columns = list(dict.fromkeys(name for item in items for name in item.row))
        raise InputError(f"{path}: no column says which item a row is. Its columns: {listed(columns)}.", fix=fix)
    seen: dict[str, str] = {}
    for item, row in zip(items, rows, strict=True):
        key = content_hash(row["input"], row["reference"])
        if key in seen:
            raise InputError(
                f"{item.where}: no column is an id, and input and reference are those of {seen[key]} too.", fix=fix
            )
        seen[key] = item.where.removeprefix(f"{path}, ")
        row["id"] = key
