"""Room on the disk, and exports that were begun and never ended."""

from __future__ import annotations

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

    Raises InputError where the folder is there already, or another process is writing it.
    """
    files.make_folder(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"{folder} is being written by another process.", fix="Wait for it.") from error
    try:
        files.recover_folder(folder)
        for left in folder.parent.glob(f".{folder.name}.*{files.PART}"):
            shutil.rmtree(left, ignore_errors=True)
        if folder.exists():
            raise InputError(
                f"{folder} is there already.", fix="Name another folder with --output, or remove that one."
            )
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
