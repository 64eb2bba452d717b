"""Files to rows. To add a format: one function, and one line in FORMATS."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.errors import InputError, listed
from tunelift.core.registry import Registry

Row = dict[str, Any]
Numbered = list[tuple[int, Row]]
Columns = Sequence[str] | None

GIVEN = "the data given"
"""How messages call rows that were passed as Python objects."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one source and, for messages, its name and where each row stands in it: `line 7`, `item 3`."""

    name: str
    rows: list[Row]
    numbers: list[int]
    unit: str = "row"
    path: Path | None = None

    @property
    def columns(self) -> list[str]:
        """Every column that any row has, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def where(self, index: int) -> str:
        """Name the place of row `index` (from 0)."""
        return f"{self.name}, {self.unit} {self.numbers[index]}"


def read_file(path: Path, columns: Columns = None) -> Table:
    """Read a file by its ending; `columns` names the columns of a csv or tsv file without a header.

    Raises InputError that names the file, the line and what to do.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise InputError(
            f'{path} has the ending "{path.suffix}", which is no known format.',
            fix=f"Known endings: {listed(FORMATS)}.",
        )
    unit, headerless, read = FORMATS.get(ending)
    if columns and not headerless:
        raise InputError(
            f"data.columns names the columns of files without a header, and {path} names its own.",
            fix="Remove data.columns, or use a csv or tsv file.",
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes).", fix="Give a file with at least one row.")
    numbered = read(path, columns)
    if not numbered:
        raise InputError(f"{path} holds no rows.", fix="Give a file with at least one row (below the header, if any).")
    return Table(str(path), [row for _, row in numbered], [number for number, _ in numbered], unit, path)


def read_text(path: Path) -> str:
    """Read UTF-8 (with or without BOM), or UTF-16 and UTF-32 with BOM; InputError names the byte that is neither."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not {encoding} text: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}).",
            fix="Save it as UTF-8; for a file from Windows: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW.",
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: holds a NUL character.", fix="Give a text file; this one is binary.")
    return text


# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are not blank; only line feeds end a line, as in every text editor."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _read_csv(path: Path, columns: Columns) -> Numbered:
    return _with_header(path, files.csv_records(path, io.StringIO(read_text(path), newline="")), columns)


def _read_tsv(path: Path, columns: Columns) -> Numbered:
    """Quotes in a tsv file are text like any other: tabs cannot stand in a field, so nothing needs quoting."""
    records = ((number, line.split("\t")) for number, line in _lines(read_text(path)))
    return _with_header(path, records, columns)


def _with_header(path: Path, records: Iterator[tuple[int, list[str]]], columns: Columns) -> Numbered:
    header = list(columns) if columns else [name.strip() for name in next(records, (0, []))[1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(
            f'{path}: the column name "{twice[0]}" stands more than once in the header ({listed(header)}).',
            fix="Give each column its own name; for a file without a header, name them in data.columns.",
        )
    rows = []
    for number, fields in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {number}: {len(fields)} fields for {len(header)} columns ({listed(header)}).",
                fix="Every line needs one field per column; in csv, a field that holds a comma stands in quotes.",
            )
        rows.append((number, dict(zip(header, fields, strict=True))))
    return rows


def _read_jsonl(path: Path, columns: Columns) -> Numbered:
    example = 'Each line must be one JSON object, such as {"prompt": "...", "completion": "..."}.'
    rows = []
    for number, line in _lines(read_text(path)):
        where = f"{path}, line {number}"
        rows.append((number, _object(_parsed(line, where, example), where, example)))
    return rows


def _read_json(path: Path, columns: Columns) -> Numbered:
    """A list of objects, or an object whose "data" is one."""
    shape = 'The file must be [{...}, {...}] or {"data": [{...}, {...}]}; with one object per line, name it .jsonl.'
    value = _parsed(read_text(path), str(path), shape)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise InputError(f"{path} holds no list of rows.", fix=shape)
    return [(number, _object(item, f"{path}, item {number}", shape)) for number, item in enumerate(value, start=1)]


def _parsed(text: str, where: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not valid JSON ({error.msg}, {place}).", fix=fix) from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number with thousands of digits
        raise InputError(f"{where}: JSON that cannot be read ({error}).", fix=fix) from error


def _object(value: Any, where: str, fix: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is expected, not {type(value).__name__}.", fix=fix)
    return value


def _read_parquet(path: Path, columns: Columns) -> Numbered:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: parquet needs pyarrow.", fix="pip install 'tunelift[data]'") from error
    try:
        rows = parquet.ParquetFile(path).read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}.") from error
    return list(enumerate(rows, start=1))


def _read_txt(path: Path, columns: Columns) -> Numbered:
    """One row per line, as other loaders of text files have it: a document that spans lines belongs in jsonl."""
    return [(number, {"text": line}) for number, line in _lines(read_text(path))]


Reader = Callable[[Path, Columns], Numbered]

FORMATS: Registry[tuple[str, bool, Reader]] = Registry("data format")
"""By ending: what a row is called in messages, whether `data.columns` may name the columns, the function."""
FORMATS.add("csv", ("line", True, _read_csv))
FORMATS.add("tsv", ("line", True, _read_tsv))
FORMATS.add("jsonl", ("line", False, _read_jsonl))
FORMATS.add("json", ("item", False, _read_json))
FORMATS.add("parquet", ("row", False, _read_parquet))
FORMATS.add("txt", ("line", False, _read_txt))
