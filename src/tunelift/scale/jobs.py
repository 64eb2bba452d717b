"""Commands run as processes of their own: in turn, several at once, or on the workers of a Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tunelift.core import machine, progress, stopping
from tunelift.core.errors import InputError

LOCAL, RAY = "local", "ray"
RETRIES = 3
"""Of a job whose worker was lost: it goes on from its checkpoint, in the same folder."""

LOOK = 0.5
"""Seconds between two looks at jobs that run."""

_running: dict[str, subprocess.Popen[bytes]] = {}
"""The commands that this process runs now, by the logs of their jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command of tunelift's own, and the file that its standard output and error are added to.

    `bytes` is the memory that it is planned to take, None where nobody knows. It writes `folder`, and reads `files`,
    which are arguments, and the run folders `runs`.
    """

    name: str
    arguments: Sequence[str]
    log: Path
    bytes: int | None = None
    folder: Path = Path()
    files: Sequence[Path] = ()
    runs: Sequence[Path] = ()


Ended = Callable[[Job, int], None]
"""Told of each job that ended: the job and its exit code."""

Watch = Callable[[Job], bool]
"""Asked of each job that runs, now and then, whether it is to save and end."""


Command = Callable[[int, str], int]
"""What a worker is to do for a job, with so many threads in a folder; it returns an exit code."""


class Between(Protocol):
    """What jobs and their workers have in common, and how what they make comes back."""

    def command(self, job: Job) -> Command: ...
    def look(self, job: Job) -> None: ...
    def bring(self, job: Job) -> None: ...


class SharedFolder:
    """The workers see the same folders at the same paths: there is nothing to bring."""

    def command(self, job: Job) -> Command:
        return partial(work, job.arguments, str(job.log))

    def look(self, job: Job) -> None: ...
    def bring(self, job: Job) -> None: ...


class Place(Protocol):
    """Where jobs run. What `start` gives is a job's handle; the others take it."""

    def free(self, running: int) -> bool: ...
    def fits(self, job: Job, running: Mapping[Any, Job]) -> bool: ...
    def start(self, job: Job, command: Command) -> Any: ...
    def over(self, handles: Sequence[Any]) -> Iterable[Any]: ...
    def code(self, handle: Any, job: Job) -> int: ...
    def stop(self, handle: Any, job: Job) -> bool: ...


def run_jobs(
    jobs: Iterable[Job],
    on: str,
    at_once: int,
    ended: Ended,
    watch: Watch | None = None,
    *,
    between: Between | None = None,
) -> None:
    """Run the jobs, at most `at_once` at a time on a machine, each with its share of the cores.

    Two whose planned bytes are more than there is do not run together; one that takes more than there is runs alone. Of
    jobs that are no sequence each is asked for when there is room for one more, so that it may depend on what ended.

    `on` is local, ray (the cluster that is running, or one of this machine), or a cluster's address. The workers of a
    cluster need the same installation, and the same folders unless `between` brings what jobs make. Raises InputError
    where Ray is missing or no cluster answers.
    """
    between = between or SharedFolder()
    waiting, running, stopped, held = iter(jobs), dict[Any, Job](), set[Any](), None
    with _here(at_once) if on == LOCAL else _on_ray(on, at_once, lazily=not isinstance(jobs, Sequence)) as place:
        while True:
            while place.free(len(running)) and (held := held or next(waiting, None)) and place.fits(held, running):
                running[place.start(held, between.command(held))], held = held, None
            if not running:
                return
            for handle in place.over(list(running)):
                job = running.pop(handle)
                between.bring(job)
                ended(job, place.code(handle, job))
            if watch:
                still = [(handle, job) for handle, job in running.items() if handle not in stopped]
                asked = [(handle, job) for handle, job in still if _is_to_end(job, watch, between)]
                stopped |= {handle for handle, job in asked if place.stop(handle, job)}


def _is_to_end(job: Job, watch: Watch, between: Between) -> bool:
    between.look(job)
    return watch(job)


def work(
    arguments: Sequence[str],
    log: str,
    threads: int,
    folder: str,
    *,
    meanwhile: Callable[[], None] = lambda: None,
    known_as: str | None = None,
) -> int:
    """Run one command of tunelift in a process of its own, in a folder; return its exit code.

    `meanwhile` is called while it runs. A job whose log lies elsewhere is `known_as` that one.
    """
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("a", encoding="utf-8") as out, ends_with_this_one() as (fds, told):
        process = subprocess.Popen(
            [sys.executable, "-m", "tunelift", *arguments],
            stdout=out, stderr=subprocess.STDOUT, cwd=folder, pass_fds=fds,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **told},
        )  # fmt: skip
        _running[known_as or log] = process
        try:
            while (code := _ended(process)) is None:
                meanwhile()
            return code
        except BaseException:
            process.terminate()  # it saves and ends
            process.wait()
            raise
        finally:
            del _running[known_as or log]


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a process that ends within a while: Ray interrupts a task between two, and not within."""
    try:
        return process.wait(LOOK)
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def ends_with_this_one() -> Iterator[tuple[tuple[int, ...], dict[str, str]]]:
    """Yield the file descriptors and the environment by which a process hears that this one is gone, however it went.

    Else the work of a worker that was killed would go on beside that of the one which takes it over.
    """
    if os.name != "posix":
        yield (), {stopping.JOB: ""}
        return
    read, write = os.pipe()  # whose other end the system closes when this process dies
    try:
        yield (read,), {stopping.JOB: str(read)}
    finally:
        os.close(read)
        os.close(write)


@dataclass(slots=True)
class _Here:
    """Processes of this machine, each waited for by a thread. `room` is the memory for all of them (bytes)."""

    pool: ThreadPoolExecutor
    at_once: int
    room: int | None
    begun: list[Future[int]]

    def free(self, running: int) -> bool:
        return running < self.at_once

    def fits(self, job: Job, running: Mapping[Any, Job]) -> bool:
        together = sum(one.bytes or 0 for one in [job, *running.values()])
        if not running or self.room is None or together <= self.room:
            return True
        progress.note_once(f"memory: not {self.at_once} at a time: {len(running) + 1} together would not fit.")
        return False

    def start(self, job: Job, command: Command) -> Future[int]:
        threads = max(1, machine.cores() // self.at_once)
        self.begun.append(self.pool.submit(command, threads, str(Path.cwd())))
        return self.begun[-1]

    def over(self, handles: Sequence[Future[int]]) -> Iterable[Future[int]]:
        return wait(handles, LOOK, FIRST_COMPLETED).done

    def code(self, handle: Future[int], job: Job) -> int:
        return handle.result()

    def stop(self, handle: Future[int], job: Job) -> bool:
        process = _running.get(str(job.log))
        if process is not None:
            process.terminate()  # it saves and ends
        return process is not None


@contextmanager
def _here(at_once: int) -> Iterator[Place]:
    with ThreadPoolExecutor(at_once) as pool:
        place = _Here(pool, at_once, _room(), [])
        try:
            yield place
        except BaseException:
            _end_what_runs(place.begun)
            raise


def _room() -> int | None:
    """Return the bytes of memory that jobs may have together: what others leave now; None where that is not known."""
    known = [count for count in (machine.usable_bytes(), machine.available_bytes()) if count is not None]
    now = machine.resident()
    return max(0, min(known) - (now.all if now else 0)) if known else None


def _end_what_runs(futures: Sequence[Future[int]]) -> None:
    """Ask every command to save and end, once, those too that are begun just now: their threads hear of no signal."""
    told = set[subprocess.Popen[bytes]]()
    while not all(future.done() for future in futures):
        for process in set(_running.values()) - told:
            process.terminate()
            told.add(process)
        time.sleep(0.1)


def _done(command: Command, threads: int, folder: str) -> int:
    """Do a job, as a task of Ray's."""
    return command(threads, folder)


@dataclass(slots=True)
class _OnRay:
    """Tasks of a cluster: memory and cores are resources, by which Ray puts together what fits."""

    ray: Any
    at_once: int
    lazily: bool
    task: Any
    begun: list[Any]

    def free(self, running: int) -> bool:
        """Tell whether one more may be begun: of jobs that depend on others as many as the cluster's cores take."""
        if not self.lazily:
            return True
        cores = [node.get("CPU", 0) for node in self._nodes()]
        return running < max(1, sum(int(count // self._threads(cores)) for count in cores))

    def fits(self, job: Job, running: Mapping[Any, Job]) -> bool:
        return True

    def start(self, job: Job, command: Command) -> Any:
        """Submit the job with what it takes, or with all of the largest machine where it takes more: it runs alone."""
        nodes = self._nodes()
        threads = self._threads([node.get("CPU", 0) for node in nodes])
        most = max((int(node.get("memory", 0)) for node in nodes), default=0)
        asked: dict[str, Any] = {"num_cpus": threads, "max_retries": RETRIES}
        if job.bytes and most:
            asked["memory"] = min(job.bytes, most)
        task = self.task.options(**asked)
        self.begun.append(task.remote(command, threads, str(Path.cwd())))
        return self.begun[-1]

    def over(self, handles: Sequence[Any]) -> Iterable[Any]:
        done: list[Any] = self.ray.wait(list(handles), num_returns=1, timeout=LOOK)[0]
        return done

    def code(self, handle: Any, job: Job) -> int:
        """Return the exit code of a job; 1 where Ray lost it more often than it tries again, or it was stopped."""
        try:
            return int(self.ray.get(handle))
        except self.ray.exceptions.RayError as error:
            with job.log.open("a", encoding="utf-8") as out:
                out.write(f"Lost by Ray: {error}\n")
            return 1

    def stop(self, handle: Any, job: Job) -> bool:
        self.ray.cancel(handle)  # its worker has the command save and end
        return True

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _threads(self, cores: Sequence[float]) -> int:
        """Return the cores of a job: this machine's share, and no more than a machine of the cluster has."""
        return max(1, min(machine.cores() // self.at_once, int(max(cores, default=1))))


@contextmanager
def _on_ray(on: str, at_once: int, *, lazily: bool) -> Iterator[Place]:
    with _cluster(on) as ray:
        place = _OnRay(ray, at_once, lazily, ray.remote(_done), [])
        try:
            yield place
        except BaseException:
            for handle in place.begun:
                ray.cancel(handle)
            raise


@contextmanager
def _cluster(on: str) -> Iterator[Any]:
    """Yield Ray, joined to a cluster for as long as is needed, unless the user has joined one."""
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed.", fix="pip install 'tunelift[ray]', or use --on local.") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=_address(on), log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise InputError(f"No Ray cluster answers at {on}.", fix="Start one, or use --on local.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _address(on: str) -> str | None:
    """Return the address to give to ray.init: none for `ray`, which takes the cluster of RAY_ADDRESS or begins one."""
    return os.environ.get("RAY_ADDRESS") if on == RAY else on
