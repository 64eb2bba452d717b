"""Delimited text of anybody's making: which delimiter, which header, and rows that fit it; errors name the line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tunelift.core import text_files
from tunelift.core.errors import InputError, listed

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""What may stand between fields; of two that fit equally well the first counts."""

Records = Iterator[tuple[int, list[str]]]

_SAID = re.compile('"?sep=(.)"?', re.IGNORECASE)
_RECORDS, _CHARACTERS = 100, 2**20  # looked at, to tell the delimiter


@dataclass(frozen=True, slots=True)
class TextTable:
    """The names of the columns, and (line where it begins, fields) of each row.

    Every row has one field for each name, as text; reading on raises InputError, naming the line, where one has not.
    """

    header: list[str]
    rows: Records


def read_text_table(path: Path, delimiter: str | None = None, names: Sequence[str] | None = None) -> TextTable:
    """Read a file of delimited text: with `names` every record is a row, without them the first is the header.

    The delimiter is told by the first records unless it is given, or by a first line such as `sep=;`, which
    spreadsheets write and which is no record. A first record that is `names` themselves is a header. Raises InputError
    for a header with one name twice, and as `text_files.records_of` does.
    """
    match = _SAID.fullmatch(next((line for _, line in text_files.lines_of(path)), "").rstrip("\r\n"))
    said = match[1] if match and match[1] in DELIMITERS else None
    delimiter = delimiter or said or delimiter_of(path, len(names) if names else None)
    records = text_files.records_of(path, delimiter)
    first = next(records, None)
    if first and said == delimiter:
        first = next(records, None)
    if first is None:
        return TextTable(list(names or ()), records)
    found = [name.strip() for name in first[1]]
    has_header = names is None or list(map(str.casefold, found)) == list(map(str.casefold, names))
    header = found if names is None else list(names)
    _check_names(f"{path}, line {first[0]}" if names is None else str(path), header)
    records = records if has_header else chain([first], records)
    return TextTable(header, _rows(path, header, delimiter, records))


def delimiter_of(path: Path, columns: int | None = None) -> str:
    """Return the delimiter that cuts most of the first records into as many fields as the first (or `columns`).

    Delimiters inside quotes do not count. Text with a semicolon in its first record alone is one column.
    """
    lines, characters = [], 0
    for _, line in text_files.lines_of(path):
        lines.append(line)
        characters += len(line)
        if characters > _CHARACTERS or len(lines) > _RECORDS * 10:
            break
    fits: dict[str, tuple[int, int]] = {}
    for delimiter in DELIMITERS:
        counts = _field_counts(lines, delimiter)
        cuts_others = delimiter == "," or max(counts[1:], default=2) > 1
        if columns != 1 and counts and counts[0] > 1 and cuts_others:
            expected = columns or counts[0]
            fits[delimiter] = sum(count == expected for count in counts), counts[0]
    return max(fits, key=lambda delimiter: fits[delimiter], default=",")


def _rows(path: Path, header: Sequence[str], delimiter: str, records: Records) -> Records:
    name = DELIMITERS.get(delimiter, repr(delimiter))
    how = ", which cannot stand in a field" if delimiter == "\t" else f"; a field that holds a {name} stands in quotes"
    for line, fields in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(fields)} fields for {len(header)} columns ({listed(header)}).",
                fix=f"Every line needs one field per column. Fields are separated by {name}s{how}.",
            )
        yield line, fields


def _check_names(where: str, header: Sequence[str]) -> None:
    """Refuse a name that stands twice; columns without a name, as pandas writes for its row numbers, are left alone."""
    twice = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if twice:
        raise InputError(
            f'{where}: the column name "{twice[0]}" stands more than once in the header ({listed(header)}).',
            fix="Give each column its own name in the first line; data without a header is named by data.columns.",
        )


def _field_counts(lines: Sequence[str], delimiter: str) -> list[int]:
    """Return how many fields each of the first records has; as many as can be read where quotes are not sound."""
    counts: list[int] = []
    try:
        is_tab = delimiter == "\t"
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if is_tab else csv.QUOTE_MINIMAL)
        for fields in text_files.long_fields(reader):
            if any(field.strip() for field in fields):
                counts.append(len(fields))
            if len(counts) == _RECORDS:
                break
    except csv.Error:
        pass  # the reading itself names the line
    return counts
