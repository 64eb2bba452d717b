"""Files written whole or not at all, and read with errors that name the file and the line."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError, TuneliftError


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a crash leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a result is to be shared like any other file the user writes.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. Raises TuneliftError for NaN and infinity."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise TuneliftError(f"{path} was not written: a value is NaN or infinite, which JSON cannot hold.") from error
    write_text(path, text + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder beside `path`, then put it in the place of `path` by renaming.

    A crash leaves the old folder (under its name, or under `.NAME.old` for an instant between two renames, whence
    `recover_folder` brings it back) or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        fill(staging)
        for file in staging.rglob("*"):
            file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())  # safetensors writes private files
            _sync_file(file) if file.is_file() else _sync_folder(file)
        staging.chmod(0o777 & ~_umask())
        _sync_folder(staging)
        old = _set_aside(path)
        if path.exists():
            path.rename(old)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        recover_folder(path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Finish or take back a `write_folder` that was cut off between its two renames."""
    old = _set_aside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Read a JSON file; raise InputError that names the file, the line and the column."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-blank line; raise InputError that names the file and the line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            yield from ((number, _json_object(path, number, line)) for number, line in lines)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", fix="It must be a UTF-8 text file.") from error


def csv_records(path: Path, lines: Iterable[str], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, fields) of each record that is not blank; a quoted field may hold line breaks.

    Raises InputError, naming `path` and the line, for quotes that do not end.
    """
    limit = csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than some documents have
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begins = 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield begins, fields
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {begins}: not valid csv ({error}).",
            fix='A quote inside a field is written twice (""), and every quoted field ends with a quote.',
        ) from error
    finally:
        csv.field_size_limit(limit)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}).",
            fix='Each line must be one JSON object, such as {"prompt": "...", "completion": "..."}.',
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}, line {number}: a JSON object is expected, not {type(value).__name__}.")
    return value


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # a folder cannot be opened for syncing on Windows
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
