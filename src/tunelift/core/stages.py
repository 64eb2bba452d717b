"""What stages of runs made, kept under the hash of all that they depend on: what runs have in common is made once.

A stage is a folder, written beside its place and put there by one renaming, so that a killed run leaves nothing half.
It holds the files of what was made, and `stage.json`: the hash of each file and of itself, by which a damaged one is
told and made again, what the stage depends on, and which run made it. While one process makes a stage, others that want
the same one wait for it; the system lets go of the lock when that process dies.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from tunelift.core import cache, files, machine, progress, provenance

T = TypeVar("T")

LIMIT_BYTES = 2 * 2**30
"""Of all stages together; those not used for longest go first."""
FACTS = "stage.json"
ASK_AGAIN_SECONDS = 1.0
"""Between two looks at whether another process is done: a signal is heard in between."""
HALF_MADE_SECONDS = 24 * 3600
"""After which what a killed process left is removed."""
MADE_HERE = "made here"


class NotKeptError(Exception):
    """Raised by a stage's `save` for what would not come back as it was: it is used, and not kept."""


@dataclass(slots=True)
class Told:
    """What became of the stages of one run: by name the hash of each, and the run it was taken from, or `made here`."""

    run: str
    stages: dict[str, dict[str, str]] = field(default_factory=dict)


_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextlib.contextmanager
def told_of(run: str) -> Iterator[Told]:
    """Note for a while what becomes of stages; `run` is the folder that others are told they took them from."""
    told = Told(run)
    token = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(token)


def told() -> dict[str, dict[str, str]]:
    """Return what became of the stages of this run up to now; nothing where nobody asked for that."""
    found = _told.get()
    return {} if found is None else dict(found.stages)


@functools.cache
def code() -> str:
    """Return the SHA-256 of every file of this package: another version of the code makes everything anew."""
    package, sha = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            sha.update(f"{path.relative_to(package).as_posix()} {files.sha256(path)}\n".encode())
    return sha.hexdigest()


def hash_of(kind: str, depends_on: Mapping[str, Any]) -> str:
    """Return the SHA-256 that a stage is found by.

    It is of the kind, what the stage depends on, the code of this package, the version of Python and of every package
    that has a part in the numbers, and the instructions that this machine computes with. The number of threads is no
    part of it: it changes the last digits only.
    """
    whole = {"kind": kind, "depends_on": depends_on, "code": code(), "versions": _versions(), "machine": _machine()}
    return digest(whole)


def digest(value: Any) -> str:
    """Return the SHA-256 of a value of JSON: what is long stands so in what a stage depends on."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_never).encode()).hexdigest()


def shared(
    name: str,
    depends_on: Mapping[str, Any] | None,
    make: Callable[[], T],
    save: Callable[[T, Path], Any],
    read: Callable[[Path], T],
) -> tuple[T, str]:
    """Return what `make` gives, or what it gave to an earlier run of which all that it depends on was the same.

    Beside it stands the run that it was taken from, or `made here`.

    `name` is the stage's, up to its first slash its kind. `save` writes what was made to an empty folder, and `read`
    gets it back. `depends_on` is of JSON; where it is None, nobody can tell, and the stage is made and not kept. Where
    it cannot be written, as on a full disk, that is said and costs time alone.
    """
    if depends_on is None:
        return make(), MADE_HERE
    kind = name.partition("/")[0]
    place = folder() / hash_of(kind, depends_on)
    with _alone(place, name):
        found = _taken(place, name, read)
        if found is not None:
            source = MADE_HERE if (told := _told.get()) and told.run == found[1] else found[1]
            _tell(name, place, source)
            return found[0], source
        made = make()
        _keep(place, made, save, {"kind": kind, "depends_on": depends_on})
        _tell(name, place, MADE_HERE)
        return made, MADE_HERE


def folder() -> Path:
    return cache.folder() / "stages"


def _tell(name: str, place: Path, source: str) -> None:
    told = _told.get()
    if told is not None:
        told.stages[name] = {"hash": place.name, "from": source}


def _taken(place: Path, name: str, read: Callable[[Path], T]) -> tuple[T, str] | None:
    """Return what lies there and who made it; None, and nothing there any more, where a file is missing or damaged."""
    if not place.exists():
        return None
    try:
        facts = _facts_of(place)
        found, run = read(place), str(facts["run"])
        os.utime(place)
    except Exception as error:  # whatever it holds was not written here
        progress.note(f"{name}: what was kept of it in {place} is damaged ({error}); it is made again")
        shutil.rmtree(place, ignore_errors=True)
        return None
    return found, run


def _facts_of(place: Path) -> dict[str, Any]:
    """Return what a stage says of itself; raise ValueError unless every file is there, and as it was written."""
    try:
        facts: dict[str, Any] = json.loads((place / FACTS).read_bytes())
        whole = facts.pop("sha256") == digest(facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{FACTS} is not as it was written")
    there, known = {file.relative_to(place).as_posix(): file for file in _files_in(place)}, facts["files"]
    if there.keys() - {FACTS} != known.keys():
        raise ValueError("files are missing, or too many")
    if wrong := [name for name, sha256 in known.items() if files.sha256(there[name]) != sha256]:
        raise ValueError(f"{wrong[0]} is not as it was written")
    return facts


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _keep(place: Path, made: T, save: Callable[[T, Path], Any], facts: Mapping[str, Any]) -> None:
    """Put what was made in its place, whole or not at all; where that cannot be done, say so and go on without."""
    part = place.with_name(f".{place.name}.{secrets.token_hex(8)}{files.PART}")
    try:
        part.mkdir(parents=True)
        save(made, part)
        told, now = _told.get(), datetime.now(UTC).isoformat(timespec="seconds")
        hashes = {path.relative_to(part).as_posix(): files.sha256(path) for path in _files_in(part)}
        run = told.run if told else provenance.command_line()
        about = {**facts, "run": run, "made": now, "code": code(), "versions": _versions(), "files": hashes}
        about = json.loads(json.dumps(about))  # as it is read again: its keys are text
        files.write_json(part / FACTS, about | {"sha256": digest(about)})
        part.rename(place)  # fails where another process was as quick, and has made the same
        _keep_to_the_limit(place)
    except NotKeptError:
        pass
    except OSError as error:
        if not place.is_dir():
            why = f"{error.strerror or error}, in {folder()}"
            progress.note_once(f"what this run has in common with others is used, but not kept for them: {why}")
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _alone(place: Path, name: str) -> Iterator[None]:
    """Hold the lock of a stage, waiting for another process that has it; without one where none can be made."""
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, name)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, name: str) -> None:
    try:
        lock.acquire(timeout=ASK_AGAIN_SECONDS)
    except Timeout:  # which is an OSError
        progress.note(f"{name}: another run is making the same; waiting for it")
    while not lock.is_locked:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=ASK_AGAIN_SECONDS)


def _keep_to_the_limit(own: Path) -> None:
    """Remove stages over the limit, those not used for longest first, and what killed processes left.

    `own` was made just now; another that somebody has locked is in use. Both stay.
    """
    now, sizes = time.time(), list[tuple[float, int, Path]]()
    for path in folder().iterdir():
        with contextlib.suppress(OSError):
            used = path.stat().st_mtime
            if path.name.endswith(files.PART) and now - used > HALF_MADE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and not path.name.startswith("."):
                sizes.append((used, sum(file.stat().st_size for file in path.rglob("*")), path))
    total = sum(size for _, size, _ in sizes)
    for _, size, path in sorted(sizes):
        if total <= LIMIT_BYTES:
            break
        if path != own and _removed(path):
            total -= size


def _removed(place: Path) -> bool:
    """Remove a stage, unless it is in use: nobody reads a half of it. Return whether it was removed."""
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except OSError:  # a Timeout is one
        return False
    try:
        shutil.rmtree(place, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()
    return not place.exists()


@functools.cache
def _versions() -> dict[str, str]:
    return provenance.versions(provenance.BESIDE)


@functools.cache
def _machine() -> list[Any]:
    return [machine.processor(), machine.described()["flags"], machine.described()["platform"].split("-")[0]]


def _never(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} has no place in what a stage depends on")
