"""Runs at an address that fsspec knows (extra storage), such as s3://bucket/folder.

A run lies there as its files, by their names, and a list beside them, which is written last: of each file the bytes,
their SHA-256, and under which of two names it lies. A file that changes is written to the name that the list does not
say. So what the list says is whole and of one moment, whenever a process dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.run_files.layout import MANIFEST, STORED_FORMAT, RunPaths, stored_list
from tunelift.scale.candidates import is_complete

OTHER = "~"
"""How the second of a file's two names ends."""
CHUNK = 2**20
"""Bytes that are written at a time."""


class DamagedError(TuneliftError):
    """What lies at an address is not what was brought there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a run at an address: its bytes, their SHA-256, and whether it lies under its other name."""

    bytes: int
    sha256: str
    other: bool

    def name(self, name: str) -> str:
        """Return the name under which the file of this name lies."""
        return name + OTHER * self.other


Entries = Mapping[str, Entry]


class Storage:
    """An address, and the folder here that stands for it: what lies below the one lies below the other.

    Raises InputError for what is no address, and where the package is missing that reads it.
    """

    def __init__(self, address: str, root: Path) -> None:
        self.address, self.root = address.rstrip("/"), root
        self.fs, self.base = _file_system(self.address)

    @classmethod
    def open(cls, address: str, root: Path) -> Storage:
        """Return the storage once something was written there, read and removed; raise InputError where it was not."""
        found = cls(address, root)
        at = f"{found.base}/.tunelift-{os.urandom(4).hex()}"
        try:
            found.write(b"tunelift", at)
            read = found.fs.cat_file(at)
            found.fs.rm_file(at)
        except Exception as error:  # whatever its library raises
            why = error.problems[0] if isinstance(error, TuneliftError) else f"{address}: {_said(error)}"
            raise InputError(
                f"Nothing can be kept there. {why}",
                fix="Name an address that exists, and that the keys here may write.",
            ) from error
        if read != b"tunelift":
            raise InputError(f"{address} does not give back what is written there.", fix="Name another address.")
        progress.note(f"storage: what is made is kept at {found.address}")
        return found

    def inside(self, path: Path) -> str:
        """Return a path below the root as it is from there."""
        return Path(os.path.normpath(path)).relative_to(os.path.normpath(self.root)).as_posix()

    def at(self, path: Path) -> str:
        """Return where a path below the root lies at the address, as its file system names it."""
        return f"{self.base}/{self.inside(path)}"

    def put(self, *paths: Path) -> None:
        """Bring files to the address, those of them that there are, each whole or not at all."""
        for path in paths:
            if path.is_file():
                self.write(path.read_bytes(), self.at(path))

    def get(self, *paths: Path) -> None:
        """Bring files from the address, those of them that lie there, each whole or not at all."""
        for path in paths:
            found = self.read(path)
            if found is not None:
                files.make_folder(path.parent)
                part = path.with_name(f".{path.name}{files.PART}")
                part.write_bytes(found)
                part.replace(path)

    def read(self, path: Path) -> bytes | None:
        """Return the file at the address that a path stands for; None where there is none."""
        with self.asked("read"):
            try:
                return bytes(self.fs.cat_file(self.at(path)))
            except FileNotFoundError:
                return None

    def write(self, content: bytes, at: str) -> None:
        """Write a file there: the old one or this one, never half of it."""
        with self.asked("written to"):
            self.fs.pipe_file(at + files.PART, content)
            self.fs.mv(at + files.PART, at)

    def remove(self, path: Path) -> None:
        """Remove the file at the address that a path stands for, if there is one."""
        with self.asked("written to"), suppress(FileNotFoundError):
            self.fs.rm_file(self.at(path))

    @contextmanager
    def asked(self, what: str) -> Iterator[None]:
        """Raise TuneliftError, with the address, for whatever its library raises."""
        try:
            yield
        except TuneliftError:
            raise
        except Exception as error:
            raise TuneliftError(
                f"{self.address} could not be {what}: {_said(error)}",
                fix="Give the same command again; what lies there is kept.",
            ) from error

    def entries(self, folder: Path) -> Entries | None:
        """Return what the list of a run says; None where there is none.

        Raises DamagedError for a list that was not written here, and InputError for one of a later format.
        """
        text = self.read(stored_list(folder))
        return None if text is None else _entries(text, f"{self.address}: the list of {folder.name}")

    def pull(self, folder: Path, *, checkpoints: bool = True) -> str:
        """Make a run's folder here what lies at the address, where a run does.

        Of one that is not whole there nothing is kept, here and on the list there; a line that says so is returned.
        """
        try:
            self._pull(folder, checkpoints)
        except DamagedError as error:
            self.remove(stored_list(folder))
            shutil.rmtree(folder, ignore_errors=True)
            return f"{error} It is made anew."
        return ""

    def _pull(self, folder: Path, checkpoints: bool) -> None:
        there = self.entries(folder)
        if there is None:
            return
        wanted = there if checkpoints else _without_checkpoints(there)
        for path in files_of(folder):
            if path.relative_to(folder).as_posix() not in wanted:
                path.unlink()
        for path in sorted(folder.rglob("*"), reverse=True):
            with suppress(OSError):  # a file, or a folder that is not empty
                path.rmdir()
        for name, entry in sorted(wanted.items(), key=lambda one: one[0] == MANIFEST):  # last: it speaks of the others
            path = folder / name
            if not (path.is_file() and files.sha256(path) == entry.sha256):
                self.fetch(folder, name, entry)

    def drop_checkpoints(self, folder: Path) -> None:
        """Remove the checkpoints of a run that lies at the address: nobody goes on with it."""
        there = self.entries(folder) or {}
        self.record(folder, there, _without_checkpoints(there))

    def record(self, folder: Path, before: Entries, now: Entries) -> None:
        """Have the list of a run say what lies there now, and remove what lay there before."""
        if before == now:
            return
        told = {"format": STORED_FORMAT, "files": {name: asdict(one) for name, one in now.items()}}
        self.write(json.dumps(told, indent=1).encode(), self.at(stored_list(folder)))
        for name in {one.name(name) for name, one in before.items()} - {one.name(name) for name, one in now.items()}:
            with suppress(TuneliftError):  # nobody looks for it
                self.remove(folder / name)

    def fetch(self, folder: Path, name: str, entry: Entry) -> None:
        """Bring one file of a run; raise DamagedError where it is not there, or not what the list says."""
        path = folder / name
        files.make_folder(path.parent)
        part = path.with_name(f".{path.name}{files.PART}")
        try:
            with self.asked("read"):
                try:
                    self.fs.get_file(self.at(folder / entry.name(name)), str(part))
                except FileNotFoundError as error:
                    raise DamagedError(f"{self.address}: {name} of {folder.name} is not there.") from error
            if files.sha256(part) != entry.sha256:
                raise DamagedError(f"{self.address}: {name} of {folder.name} is not what was brought there.")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


class Kept:
    """A run's folder here, of which the address has what it had at the last `push`."""

    def __init__(self, store: Storage, folder: Path) -> None:
        self.store, self.folder = store, folder
        try:
            self.there = dict(store.entries(folder) or {})
        except DamagedError:
            self.there = {}
        self._marks: dict[str, tuple[int, ...]] = {}  # what files were like that are there

    def push(self) -> None:
        """Bring what changed; of a run that is complete all lies under its first names then.

        Raises TuneliftError where it cannot be brought; the address has what it had.
        """
        marks = {name: _mark(self.folder / name) for name in self._names()}
        self._push([name for name, mark in marks.items() if name not in self.there or self._marks.get(name) != mark])
        self._marks = marks
        if is_complete(RunPaths(self.folder)):
            self._push([name for name, one in self.there.items() if one.other], anyway=True)

    def _push(self, changed: Iterable[str], *, anyway: bool = False) -> None:
        with tempfile.TemporaryDirectory(prefix=".", suffix=files.PART, dir=self.store.root) as part:
            links = self._links(changed, Path(part))
            now = {name: one for name, one in self.there.items() if (self.folder / name).is_file()}
            for name, link in links.items():
                before = self.there.get(name)
                if anyway or before is None or files.sha256(link) != before.sha256:
                    now[name] = self._brought(name, link, other=before is not None and not before.other)
        self.store.record(self.folder, self.there, now)
        self.there = now

    def _names(self) -> list[str]:
        """Return the names of the files, the manifest first: it speaks of the others, which may only be later."""
        names = [path.relative_to(self.folder).as_posix() for path in files_of(self.folder)]
        return sorted(names, key=lambda name: name != MANIFEST)

    def _links(self, names: Iterable[str], part: Path) -> dict[str, Path]:
        """Return links to files as they are now: a checkpoint that gives way while it is brought is whole still."""
        found = dict[str, Path]()
        for number, name in enumerate(names):
            with suppress(FileNotFoundError):
                found[name] = _link(self.folder / name, part / str(number))
        return found

    def _brought(self, name: str, path: Path, *, other: bool) -> Entry:
        sha, count = hashlib.sha256(), 0
        at = self.store.at(self.folder / Entry(0, "", other).name(name))
        with (
            self.store.asked("written to"),
            path.open("rb") as source,
            self.store.fs.open(at, "wb") as target,
        ):
            while chunk := source.read(CHUNK):
                sha.update(chunk)
                count += len(chunk)
                target.write(chunk)
        return Entry(count, sha.hexdigest(), other)


def files_of(folder: Path) -> list[Path]:
    """Return the files of a run, but for its lock and for what is just being written."""
    found = [path for path in folder.rglob("*") if path.is_file() and path != RunPaths(folder).lock]
    written = (files.PART, files.OLD)
    return [path for path in found if not any(part.endswith(written) for part in path.relative_to(folder).parts)]


def _without_checkpoints(there: Entries) -> dict[str, Entry]:
    folder = RunPaths("").checkpoints.name
    return {name: one for name, one in there.items() if PurePosixPath(name).parts[0] != folder}


def _mark(path: Path) -> tuple[int, ...]:
    """Return what tells a file that may have changed; nothing of one that is gone."""
    with suppress(FileNotFoundError):
        now = path.stat()
        return now.st_mtime_ns, now.st_size, now.st_ino
    return ()


def _link(path: Path, link: Path) -> Path:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
    return link


def _entries(text: bytes, what: str) -> Entries:
    try:
        found: Any = json.loads(text)
        files.check_format(found, Path(what), STORED_FORMAT)
        entries = {name: Entry(one["bytes"], one["sha256"], one["other"]) for name, one in found["files"].items()}
        whole = all(_is_inside(name) and type(one.other) is bool for name, one in entries.items())
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise DamagedError(f"{what} is not what was written there.")
    return entries


def _is_inside(name: str) -> bool:
    """Tell whether a name is that of a file below a folder, on every system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not {"..", "/"} & {*parts} and not any(sign in name for sign in ("\\", ":"))


def _file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it."""
    protocol, sign, _ = address.partition("://")
    if not sign:
        raise InputError(
            f"{address} is no address.",
            fix="Give one such as s3://BUCKET/FOLDER. A folder that all machines share is named by output alone.",
        )
    try:
        fsspec = import_module("fsspec")
        if protocol == "s3":
            import_module("s3fs")  # which fsspec remembers in a process that had it
        own = {"auto_mkdir": True} if protocol in ("file", "local") else {}
        fs, base = fsspec.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **own)
    except ImportError as error:
        raise InputError(
            f"What reads {address} is not installed: {error}.",
            fix="pip install 'tunelift[storage]'; for another address than s3:// the package of its name too.",
        ) from error
    except ValueError as error:
        raise InputError(
            f"{address} is no address that fsspec knows: {error}.", fix="Give one such as s3://BUCKET/FOLDER."
        ) from error
    return fs, str(base).rstrip("/")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()
