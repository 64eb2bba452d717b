"""Room on the disk, and exports that were begun and never ended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tunelift.core import files
from tunelift.core.errors import InputError

SPARE = 64 * 2**20
"""Bytes for configs, tokenizer and scores."""


def check_space(folder: Path, needed: int) -> None:
    """Raise InputError where the disk of a folder that need not exist has no room for so many bytes."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed + SPARE:
        raise InputError(
            f"The export needs {(needed + SPARE) / 1e9:.1f} GB in {there} while it is made and proved, and "
            f"{free / 1e9:.1f} GB are free.",
            fix="Nothing was written. Make room, or name a folder on another disk with --output.",
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's name for one process, and clear away what a killed one left half written.

    Raises InputError where the folder is there already or cannot be, or another process is writing it.
    """
    if folder.name in ("", ".."):  # the working folder, or one above it
        raise _taken(folder)
    there = next(path for path in folder.absolute().parents if path.exists())
    if not there.is_dir():
        raise InputError(f"{folder} cannot be made: {there} is no folder.", fix="Name another one with --output.")
    files.make_folder(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"{folder} is being written by another process.", fix="Wait for it.") from error
    try:
        files.recover_folder(folder)
        half = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]+{re.escape(files.PART)}")  # of no longer name
        for left in [path for path in folder.parent.iterdir() if half.fullmatch(path.name)]:
            shutil.rmtree(left, ignore_errors=True)
        if folder.exists():
            raise _taken(folder)
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _taken(folder: Path) -> InputError:
    return InputError(f"{folder} is there already.", fix="Name another folder with --output, or remove that one.")
