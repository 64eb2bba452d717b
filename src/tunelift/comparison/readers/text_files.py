"""Text files in, line by line, and JSON values: bounded, and with errors that name the file and the line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tunelift.core.errors import InputError

DEEPEST = 64
"""Lists and objects inside each other; results of real tools stay below 20."""

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Item(NamedTuple):
    """One row as it stands in a file, and where: `results.csv, line 7`."""

    where: str
    row: dict[str, Any]


def first_bytes(path: Path, count: int = 4) -> bytes:
    """Return the first bytes of a file; InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from error


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, line with its end) of UTF-8 text, or of UTF-16 and UTF-32 text with a byte order mark."""
    number = 0
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            for number, line in enumerate(file, start=1):
                yield number, _without_nul(line, f"{path}, line {number}")
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeError as error:
        raise InputError(
            f"{path} is not {_encoding(path)} text, near line {number + 1}.",
            fix="Save it as UTF-8; for a file from Windows: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW.",
        ) from error


def json_value(text: str, where: str) -> Any:
    """Parse JSON; InputError where it is not valid or nested too deep. A lone surrogate becomes U+FFFD."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not valid JSON ({error.msg}, {place}).") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number with thousands of digits
        raise InputError(f"{where}: JSON that cannot be read ({error}).") from error
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value, where)
    return _without_surrogates(value) if "\\ud" in text or "\\uD" in text else value


def json_object(value: Any, where: str) -> dict[str, Any]:
    """Return the value as an object; InputError where it is none."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is expected, not {type(value).__name__}.")
    return value


def _without_nul(line: str, where: str) -> str:
    if "\0" in line:
        raise InputError(f"{where}: holds a NUL character.", fix="Give a text file; this one is binary.")
    return line


def _encoding(path: Path) -> str:
    start = first_bytes(path)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror or error}.")


def _check_depth(value: Any, where: str) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise InputError(f"{where}: JSON that is nested more than {DEEPEST} levels deep.")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_surrogates(value: Any) -> Any:
    """Half of a character that JSON escapes can write cannot be encoded, so it could be neither hashed nor printed."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return value
