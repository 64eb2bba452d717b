"""Files written whole or not at all, and read with errors that name the file and the line."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.version import __version__
from tunelift.run_files.layout import FORMAT

PART, OLD = ".part", ".old"
"""How the name ends of what is being written, and of a folder that is being replaced, while somebody is at it."""

MANIFEST_PARTS = {
    **dict.fromkeys(
        ("inputs", "seconds", "model", "adapter", "train", "data", "verbatim", "versions", "seeds", "advice"), dict
    ),
    "stages": dict,
    **dict.fromkeys(("proofs", "happened"), list),
}
"""Parts of a run's manifest.json that are looked into, each with its type."""


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a crash leaves the old file or the new one, never half of it."""
    make_folder(path.parent)
    part = _part_of(path)
    try:
        with part.open("x", encoding="utf-8", newline="\n") as file:  # the same bytes on every system
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):  # which names no file where a write failed, as on a full disk
            error.filename = str(path)
        raise
    _sync(path.parent)


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
    make_folder(path.parent)
    recover_folder(path)
    staging = _part_of(path)
    staging.mkdir()
    allowed = stat.S_IMODE(staging.stat().st_mode)  # by the umask, which cannot be asked for without setting it
    try:
        fill(staging)
        for file in staging.rglob("*"):
            file.chmod((0o777 if file.is_dir() else 0o666) & allowed)  # safetensors writes private files
            _sync(file)
        _sync(staging)
        old = _set_aside(path)
        if path.exists():
            path.rename(old)
        staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        recover_folder(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a new file part by part; return its bytes and their SHA-256, taken before they met the disk."""
    sha, count = hashlib.sha256(), 0
    with path.open("xb") as file:
        for part in parts:
            sha.update(part)
            file.write(part)
            count += len(part)
    return count, sha.hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that a power loss does not take it away again."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def recover(folder: Path) -> None:
    """Finish or take back, anywhere below a folder, what was being written when its process was killed."""
    for old in list(folder.rglob(f".*{OLD}")):
        recover_folder(old.with_name(old.name.removeprefix(".").removesuffix(OLD)))
    for part in list(folder.rglob(f".*{PART}")):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)  # one may lie in another


def recover_folder(path: Path) -> None:
    """Finish or take back a `write_folder` that was cut off between its two renames."""
    old = _set_aside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: Path) -> Any:
    """Read a JSON file; raise InputError that names the file, the line and the column."""
    return text_files.json_value(text_files.text_of(path), str(path), mend=True)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; return an empty one where there is no such file."""
    return text_files.json_object(read_json(path), str(path)) if path.is_file() else {}


def check_format(value: Mapping[str, Any], path: Path, known: int) -> None:
    """Raise InputError for a file of a format that is later than the one known here, or that is none."""
    found = value.get("format", known)
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(f'{path}: "format" is not what tunelift writes there.', fix="The file was changed or damaged.")
    if found > known:
        raise InputError(
            f"{path} is of format {found}, and tunelift {__version__} reads formats up to {known}.",
            fix="Read it with the tunelift that wrote it, or a later one.",
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest.json of a run; raise InputError where a part of it is not what a run writes there."""
    manifest = read_object(path)
    check_format(manifest, path, FORMAT)
    parts = {name: manifest[name] for name in MANIFEST_PARTS if manifest.get(name) is not None}
    wrong = [name for name, part in parts.items() if not isinstance(part, MANIFEST_PARTS[name])]
    if not wrong:
        wrong += ["adapter"] if not isinstance(parts.get("adapter", {}).get("method"), str | None) else []
        spent = parts.get("seconds", {}).values()
        wrong += ["seconds"] if not all(isinstance(seconds, int | float) for seconds in spent) else []
        wrong += ["proofs"] if not all(isinstance(proof, dict) for proof in parts.get("proofs", [])) else []
    if wrong:
        raise InputError(
            f'{path}: "{wrong[0]}" is not what a run writes there.', fix="The file was changed or damaged."
        )
    return {name: value for name, value in manifest.items() if value is not None or name not in MANIFEST_PARTS}


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each non-blank line; raise InputError that names the file and the line."""
    for number, line in text_files.rows_of(path):
        where = f"{path}, line {number}"
        yield number, text_files.json_object(text_files.json_value(line, where, mend=True), where)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{OLD}")


def _part_of(path: Path) -> Path:
    """Return a name that nobody has for what is being written beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PART}")


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():  # which cannot be opened for syncing on Windows
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
