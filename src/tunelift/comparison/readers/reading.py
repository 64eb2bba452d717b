"""Which tool wrote a file, told by its content; then that tool's reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from tunelift.comparison.readers import (
    deepeval,
    evalplus,
    helm,
    inspect_log,
    lighteval,
    lm_eval,
    opencompass,
    promptfoo,
    table,
)
from tunelift.comparison.readers.files_of import only_file
from tunelift.comparison.readers.refused import refuse, refuse_header, refuse_rows
from tunelift.comparison.readers.values import Item, check_row, identifier, items_of, text
from tunelift.core import files, parquet_files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.core.text_files import first_bytes, json_object, json_value, lines_of, text_of
from tunelift.run_files.layout import FORMAT, METRICS, SCORES, TUNED

OBJECTS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Path, Mapping[str, Any]], Scores]], ...] = (
    (evalplus.is_results, evalplus.read_results),
    (deepeval.is_run, deepeval.read_run),
    (promptfoo.is_results, promptfoo.read_results),
    (opencompass.is_results, opencompass.read_results),
    (inspect_log.is_log, inspect_log.read_log),
)
"""What a tool's file that is one JSON object looks like, and what reads it."""

ROWS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Path, Iterable[Item]], Scores]], ...] = (
    (lm_eval.is_sample, lm_eval.read_samples),
    (lighteval.is_detail, lighteval.read_details),
    (promptfoo.is_result, promptfoo.read_rows),
    (helm.is_stats, helm.read_stats),
)
"""What a tool's first row looks like, in lines or in a list, and what reads such rows."""

Columns = Mapping[str, str] | None


def read_scores(path: Path, columns: Columns = None) -> Scores:
    """Read per-item results of any known tool; a folder must hold scores.jsonl, tuned/ or just one such file.

    The content decides, not the ending. `columns` says which column of a table is what. Raises InputError, naming file
    and line, for whatever cannot be read.
    """
    if path.is_dir():
        ours = (inner / SCORES for inner in (path, path / TUNED) if (inner / SCORES).exists())
        path = next(ours, None) or only_file(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist.", fix="Give a file of results or the folder that holds one.")
    start = first_bytes(path)
    if start == b"PK\x03\x04":
        return inspect_log.read_container(path)
    if start == b"PAR1":
        rows = enumerate(parquet_files.rows_of(path), start=1)
        return _rows(path, (Item(f"{path}, row {count}", _as_json(row)) for count, row in rows), columns)
    lines = ((count, line) for count, line in lines_of(path) if line.strip())
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path} holds no rows.", fix="A file of results has one row per item.")
    begins = first[1].lstrip()[0]
    if begins not in "[{":
        refuse_header(path, first[1])
        return table.read_table(path, columns)
    if begins != "{" or not first[1].rstrip().endswith("}"):
        return _whole(path, json_value(text_of(path), str(path), mend=True), columns)
    second = next(lines, None)
    if second is None:
        return _whole(path, json_value(first[1], f"{path}, line {first[0]}", mend=True), columns)
    places = ((f"{path}, line {count}", line) for count, line in chain((first, second), lines))
    parsed = (Item(where, json_object(json_value(line, where, mend=True), where)) for where, line in places)
    return _rows(path, parsed, columns)


def _as_json(value: Any) -> Any:
    """Return a value of parquet as JSON would have it: dates, decimals and bytes as text."""
    if isinstance(value, dict):
        return {str(name): _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_json(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _whole(path: Path, value: Any, columns: Columns) -> Scores:
    """Read a file that is one JSON value: an object that a tool writes, rows in a list, or a single row."""
    if isinstance(value, dict):
        read = next((read for is_one, read in OBJECTS if is_one(value)), None)
        if read is not None:
            return read(path, value)
        refuse(path, value)
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    return _rows(path, iter(items_of(value, str(path), "item")), columns)


def _rows(path: Path, items: Iterator[Item], columns: Columns) -> Scores:
    first = next(items, None)
    if first is None:
        raise InputError(f"{path} holds no rows.", fix="A file of results has one row per item.")
    items = chain((first,), items)
    read = next((read for is_one, read in ROWS if is_one(first.row)), None)
    if read is not None:
        return read(path, items)
    refuse_rows(path, first.row)
    named = all(first.row.get(key) is not None for key in ("id", "input", "reference"))
    scored = isinstance(first.row.get("metrics"), dict) or "unscored" in first.row or "counts" in first.row
    if path.name == SCORES or (named and scored):
        return _ours(path, items)
    return table.read_items(path, list(items), columns)


def _ours(path: Path, items: Iterable[Item]) -> Scores:
    rows = []
    for where, row in items:
        missing = [key for key in ("id", "input", "reference") if row.get(key) is None]
        if missing:
            raise InputError(
                f"{where}: lacks {', '.join(missing)}.",
                fix="A row needs id, input, reference, prediction and metrics (or unscored, with the reason).",
            )
        identifier(row["id"], where)
        check_row(row, where)
        if isinstance(row.get("prediction"), dict | list):
            row["prediction"] = text(row["prediction"])  # an answer is text; labels are looked up by it
        rows.append(row)
    return Scores(rows, read_info(path.with_name(METRICS)))


def read_info(path: Path) -> dict[str, Any]:
    """Read a metrics.json, {} where there is none; InputError where a part has another shape than tunelift writes."""
    info = files.read_object(path)
    files.check_format(info, path, FORMAT)
    problems = _wrong_kinds(info, {"metrics": dict, "made_with": dict, "notes": list, "items": int})
    if not problems:
        problems = _wrong_kinds(info.get("made_with") or {}, {"baseline": dict, "seed": int, "fast_paths": dict})
        entries = (info.get("metrics") or {}).items()
        problems += [problem for name, entry in entries if (problem := _entry_problem(name, entry))]
    if problems:
        raise InputError(*(f"{path}: {problem}." for problem in problems), fix="Take the file as tunelift wrote it.")
    return info


def _wrong_kinds(part: Mapping[str, Any], kinds: Mapping[str, type]) -> list[str]:
    words = {dict: "an object", list: "a list", int: "a number"}
    return [
        f'"{name}" must be {words[kind]}'
        for name, kind in kinds.items()
        if part.get(name) is not None and not isinstance(part[name], kind)
    ]


def _entry_problem(name: str, entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f'"{name}" of metrics must be an object'
    if not isinstance(entry.get("value"), int | float | None) or isinstance(entry.get("value"), bool):
        return f'the value of "{name}" must be a number or null'
    if not isinstance(entry.get("higher_is_better"), bool | None):
        return f'"higher_is_better" of "{name}" must be true, false or null'
    return None
