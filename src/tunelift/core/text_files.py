"""Text files of anybody's making: encodings, tables and JSON within limits; errors name the file and the line."""

from __future__ import annotations

import codecs
import csv
import json
import shlex
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError

LARGEST = 2 * 2**30
"""Bytes of one file of rows. They are held in memory, where they take several times as much."""

LONGEST = 100_000_000
"""Characters of a line or a csv field: a hundred novels. More are a file without line ends, or an open quote."""

MOST_COLUMNS = 2_000
"""Columns of one table. Tables of texts have a handful; work that grows with rows times columns stays bounded."""

DEEPEST = 64
"""Lists and objects inside each other; rows of real data and results of real tools stay below 20."""

Numbered = Iterator[tuple[int, str]]

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 4096  # bytes; enough to tell UTF-16 by its zeros

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_LFS_LARGEST = 1024  # bytes; git-lfs docs/spec.md: a pointer has fewer


def check_size(path: Path, most: int, fix: str | None = None) -> None:
    """Raise InputError for a file that holds no content to read, or too much.

    That is one larger than `most` bytes, what is no regular file (a pipe or a device would never end), and the pointer
    that Git LFS leaves in the place of a large file, whatever was expected there: rows, results, weights.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise InputError(f"{path} is no regular file.")
    if state.st_size > most:
        raise InputError(f"{path} has {state.st_size:,} bytes; at most {most:,} are read.", fix=fix)
    if len(_LFS_POINTER) <= state.st_size < _LFS_LARGEST and _beginning(path, len(_LFS_POINTER)) == _LFS_POINTER:
        raise InputError(
            f"{path} is a pointer of Git LFS, which stands in the place of the file itself.",
            fix="Run `git lfs install` and `git lfs pull` in that repository, or download the file by itself.",
        )


def first_bytes(path: Path, count: int = 4) -> bytes:
    """Return the first bytes of a file; InputError where it cannot be read or has more than LARGEST bytes."""
    check_size(path, LARGEST, "Give a part of it, such as its first million lines: head -n 1000000 OLD > NEW.")
    return _beginning(path, count)


def _beginning(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from error


def lines_of(path: Path, newline: str = "") -> Numbered:
    """Yield (number, line with its end) of UTF-8 text, or of UTF-16 and UTF-32 text with a byte order mark.

    Lines end as `newline` of open() says: "" for any line end, "\\n" for line feeds alone. Raises InputError, naming
    the line, for other encodings, NUL characters and lines that are too long.
    """
    start = first_bytes(path)
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    try:
        with path.open(encoding=encoding, newline=newline) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), ""), start=1):
                _check_line(path, number, line)
                yield number, line
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeError as error:
        raise _not_text(path, encoding) from error


def text_of(path: Path) -> str:
    """Return the whole text of a file; raises InputError as `lines_of` does."""
    return "".join(line for _, line in lines_of(path))


def rows_of(path: Path) -> Numbered:
    """Yield (number, line without its end) of the lines that are not blank.

    Only line feeds end a line, as in every text editor: JSON may hold other separators in a string.
    """
    for number, line in lines_of(path, "\n"):
        if line.strip():
            yield number, line.removesuffix("\n").removesuffix("\r")


def records_of(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, fields) of each record of a csv or tsv file that is not blank.

    A quoted csv field may hold line breaks. Quotes in a tsv file are text like any other: tabs cannot stand in a field,
    so nothing needs quoting. Raises InputError, naming the line, for quotes that do not end and too many fields.
    """
    split = ((number, line.split("\t")) for number, line in rows_of(path))
    for number, fields in split if delimiter == "\t" else _csv_records(path, delimiter):
        if len(fields) > MOST_COLUMNS:
            raise too_many_columns(f"{path}, line {number}", len(fields))
        yield number, fields


def too_many_columns(where: str, count: int) -> InputError:
    """Return the error for a table that is wider than MOST_COLUMNS."""
    return InputError(
        f"{where}: {count:,} columns; a table may have {MOST_COLUMNS:,}.",
        fix="Keep the columns that are needed; text with many separators belongs in quotes, or in jsonl.",
    )


def json_value(text: str, where: str, *, fix: str | None = None, mend: bool = False) -> Any:
    """Parse JSON; InputError where it is not valid, nested too deep, or has a key twice in one object.

    NaN and infinities, which Python writes, are read. Half a character, which JSON escapes can write, can be neither
    hashed nor printed: InputError, or U+FFFD in its place with `mend`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not valid JSON ({error.msg}, {place}).", fix=fix) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:
        reason = "a number has thousands of digits" if "int_max_str_digits" in str(error) else str(error)
        raise InputError(f"{where}: JSON that cannot be read ({reason}).", fix=fix) from error
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value, where)
    if "\\ud" not in text and "\\uD" not in text:
        return value
    mended = _without_surrogates(value)
    if mended != value and not mend:
        raise InputError(
            f"{where}: holds half of a character (a lone surrogate between \\ud800 and \\udfff).",
            fix="Write the whole character, or remove the half: it is no text.",
        )
    return mended


def json_object(value: Any, where: str, fix: str | None = None) -> dict[str, Any]:
    """Return the value as an object; InputError where it is none."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is expected, not {type(value).__name__}.", fix=fix)
    return value


def _check_line(path: Path, number: int, line: str) -> None:
    if "\0" in line:
        raise _in_encoding(path, f"{path}, line {number}: holds a NUL character", _seems_utf_16(path))
    if len(line) > LONGEST:
        raise InputError(
            f"{path}, line {number}: more than {LONGEST:,} characters, the most of one line.",
            fix="With one row per line (.jsonl) a file may be larger.",
        )


def _not_text(path: Path, encoding: str) -> InputError:
    """Name the first byte that is no UTF-8, and the encoding that the file seems to have."""
    if not encoding.startswith("utf-8"):
        return InputError(
            f"{path} is no sound {encoding} text, which its byte order mark says it is.", fix="Save it as UTF-8."
        )
    seems = _seems_utf_16(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                what = f"not UTF-8 text: byte 0x{line[error.start]:02x} at column {error.start + 1}"
                return _in_encoding(path, f"{path}, line {number}: {what}", seems or _seems_single_byte(line))
    return InputError(f"{path} changed while it was read.")


def _in_encoding(path: Path, problem: str, seems: str | None) -> InputError:
    if seems is None:
        return InputError(f"{problem}.", fix="Give a text file in UTF-8; this one is binary or damaged.")
    converted = shlex.quote(str(path.with_name(f"{path.stem}-utf8{path.suffix}")))
    return InputError(
        f"{problem}. The file seems to be {seems}.",
        fix=f"Save it as UTF-8, or convert it: iconv -f {seems} -t UTF-8 {shlex.quote(str(path))} > {converted}",
    )


def _seems_utf_16(path: Path) -> str | None:
    """Return UTF-16's byte order where every other byte of many is zero, as in Latin text without a mark."""
    start = first_bytes(path, _LOOKED_AT)
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) * 4 < len(start) or min(even, odd) * 20 > len(start):
        return None
    return "UTF-16LE" if odd > even else "UTF-16BE"


def _seems_single_byte(line: bytes) -> str | None:
    """Return Windows-1252, a superset of Latin-1's letters, for a line that has few bytes beyond ASCII."""
    beyond = sum(byte > 127 for byte in line)
    defined = not set(line) & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
    return "WINDOWS-1252" if defined and beyond * 3 < len(line) + 3 else None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror or error}.")


def long_fields(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield a csv reader's records, with fields as long as a line may be: csv's own limit is 131,072 characters.

    That limit is one for the process, so it is put back before anybody else runs.
    """
    while True:
        limit = csv.field_size_limit(LONGEST)
        try:
            fields = next(reader, None)
        finally:
            csv.field_size_limit(limit)
        if fields is None:
            return
        yield fields


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in lines_of(path)), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for fields in long_fields(reader):
            if any(field.strip() for field in fields):
                yield begins, fields
            begins = reader.line_num + 1
    except csv.Error as error:
        reached = f", reading on to line {reader.line_num}" if reader.line_num > begins else ""
        raise InputError(
            f"{path}, line {begins}: not valid csv ({error}{reached}).",
            fix='A quote inside a field is written twice (""), and every quoted field ends with a quote.',
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f'the key "{twice:.80}" stands twice in one object')
    return found


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: JSON that is nested more than {DEEPEST} levels deep.", fix="Give flatter rows.")


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return
    raise _too_deep(where)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return value
