"""Jobs whose workers share no folder: what they make is kept at an address, and gone on with from there.

A job works in a folder of its worker's own. What it makes goes to the address while it is made, so that another worker
goes on from there, and what came of it is read from there.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from tunelift.core import files, progress
from tunelift.core.errors import TuneliftError
from tunelift.run_files.layout import RunPaths
from tunelift.scale import jobs
from tunelift.scale.candidates import is_complete
from tunelift.scale.jobs import Command, Job
from tunelift.scale.storage import Kept, Storage

PAUSE = 2.0
"""Seconds at least between two looks at what changed; four times as long as the last took, where that is longer."""
OWN = "tunelift-job-"
"""How the name of a job's folder on its worker begins."""
ABANDONED = 60.0
"""Seconds after which a worker's folder that nobody has locked is what a killed one left."""


class Remote:
    """What brings jobs to workers, and what came of them back, by way of an address."""

    def __init__(self, store: Storage) -> None:
        self.store = store
        self._looks = dict[Path, Paced]()

    @classmethod
    def open(cls, address: str, root: Path) -> Remote:
        """Return it once the address was tried; raise InputError where nothing can be kept there."""
        return cls(Storage.open(address, root))

    def sync(self, folders: Iterable[Path]) -> None:
        """Have runs that are complete here at the address too, and bring those that are not from there."""
        for folder in folders:
            if is_complete(RunPaths(folder)):
                Kept(self.store, folder).push()
            elif said := self.store.pull(folder, checkpoints=False):
                progress.note(said)

    def command(self, job: Job) -> Command:
        """Return what a worker does for a job, once the files that it needs lie at the address."""
        self.store.put(*job.files)
        inside = self.store.inside
        return partial(
            work,
            Sent(
                self.store.address, job.arguments, {str(path): inside(path) for path in job.files},
                [inside(path) for path in job.runs], inside(job.folder), inside(job.log),
            ),
            str(job.log),
        )  # fmt: skip

    def look(self, job: Job) -> None:
        """Bring the events of a job that runs, now and then: by them it may be ended early."""
        self._looks.setdefault(job.folder, Paced(partial(self._look, job.folder)))()

    def _look(self, folder: Path) -> None:
        name = RunPaths(folder).events.name
        with suppress(TuneliftError):  # it is written just now, or nobody answers: the next look is soon
            entry = (self.store.entries(folder) or {}).get(name)
            if entry is not None:
                self.store.fetch(folder, name, entry)

    def bring(self, job: Job) -> None:
        """Bring what came of a job that ended."""
        self.store.get(job.log)
        self.sync([job.folder])


@dataclass(frozen=True, slots=True)
class Sent:
    """A job as its worker gets it: paths are those below the root. `files` has them for arguments that are files."""

    address: str
    arguments: Sequence[str]
    files: Mapping[str, str]
    runs: Sequence[str]
    folder: str
    log: str


def work(sent: Sent, known_as: str, threads: int, cwd: str) -> int:
    """Run a job's command in a folder of its own, begun with what lies at the address, which is kept up to it."""
    with own_folder() as here:
        store, log, run = Storage(sent.address, here), here / sent.log, here / sent.folder
        files.make_folder(log.parent)
        store.get(log, *(here / name for name in sent.files.values()))
        for folder in (run, *(here / name for name in sent.runs)):
            if said := store.pull(folder):
                _add(log, said)
        kept = Kept(store, run)
        arguments = [str(here / sent.files[one]) if one in sent.files else one for one in sent.arguments]
        try:
            return jobs.work(
                [*arguments, "--output", str(run)], str(log), threads, cwd,
                meanwhile=Paced(partial(_push, kept, log)), known_as=known_as,
            )  # fmt: skip
        finally:
            kept.push()
            store.put(log)


class Paced:
    """Does something when it is called, unless that was less than PAUSE ago, or less than four times as it took."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do, self.due = do, 0.0

    def __call__(self) -> None:
        began = time.monotonic()
        if began >= self.due:
            self.do()
            now = time.monotonic()
            self.due = now + max(PAUSE, 4 * (now - began))


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a folder of this worker's for one job, removed after it, and remove those of workers that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{OWN}*"):
        with suppress(OSError):  # as of a lock that is held: its worker is at work
            _remove_abandoned(left)
    with tempfile.TemporaryDirectory(prefix=OWN, ignore_cleanup_errors=True) as name, FileLock(RunPaths(name).lock):
        yield Path(name)


def _remove_abandoned(folder: Path) -> None:
    if time.time() - folder.stat().st_mtime > ABANDONED:
        with FileLock(RunPaths(folder).lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def _push(kept: Kept, log: Path) -> None:
    """Bring what changed; where that fails, add why to the log: it is tried again."""
    try:
        kept.push()
    except TuneliftError as error:
        _add(log, error.problems[0])


def _add(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as out:
        out.write(f"storage: {line}\n")
