"""Commands run as processes of their own: in turn, several at once, or on the workers of a Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.core import machine, stopping
from tunelift.core.errors import InputError

LOCAL, RAY = "local", "ray"
RETRIES = 3
"""Of a job whose worker was lost: it goes on from its checkpoint, in the same folder."""


_running: set[subprocess.Popen[bytes]] = set()
"""The commands that this process runs now."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command of tunelift's own, and the file that its standard output and error are added to."""

    name: str
    arguments: Sequence[str]
    log: Path


Ended = Callable[[Job, int], None]
"""Told of each job that ended: the job and its exit code."""


def run_jobs(jobs: Sequence[Job], on: str, at_once: int, ended: Ended) -> None:
    """Run the jobs, at most `at_once` at a time, each with its share of the cores.

    `on` is local, ray (the cluster that is running, or one of this machine), or a cluster's address. The workers of a
    cluster need the same folders and installation. Raises InputError where Ray is missing or no cluster answers.
    """
    if on == LOCAL:
        _run_here(jobs, at_once, ended)
    else:
        _run_on_ray(jobs, on, at_once, ended)


def work(arguments: Sequence[str], log: str, threads: int, folder: str) -> int:
    """Run one command of tunelift in a process of its own, in a folder; return its exit code."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("a", encoding="utf-8") as out, ends_with_this_one() as (fds, told):
        process = subprocess.Popen(
            [sys.executable, "-m", "tunelift", *arguments],
            stdout=out, stderr=subprocess.STDOUT, cwd=folder, pass_fds=fds,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **told},
        )  # fmt: skip
        _running.add(process)
        try:
            return process.wait()
        except BaseException:
            process.terminate()  # it saves and ends
            process.wait()
            raise
        finally:
            _running.discard(process)


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


def _run_here(jobs: Sequence[Job], at_once: int, ended: Ended) -> None:
    threads, folder = max(1, machine.cores() // at_once), str(Path.cwd())
    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(work, job.arguments, str(job.log), threads, folder): job for job in jobs}
        try:
            for future in as_completed(running):
                ended(running[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end_what_runs(list(running))
            raise


def _end_what_runs(futures: Sequence[Future[int]]) -> None:
    """Ask every command to save and end, once, those too that are begun just now: their threads hear of no signal."""
    told = set[subprocess.Popen[bytes]]()
    while not all(future.done() for future in futures):
        for process in set(_running) - told:
            process.terminate()
            told.add(process)
        time.sleep(0.1)


def _run_on_ray(jobs: Sequence[Job], on: str, at_once: int, ended: Ended) -> None:
    with _cluster(on) as ray:
        threads, folder = max(1, machine.cores() // at_once), str(Path.cwd())
        task: Any = ray.remote(num_cpus=threads, max_retries=RETRIES)(work)
        running = {task.remote(list(job.arguments), str(job.log), threads, folder): job for job in jobs}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(reference)
            ended(job, _code(ray, reference, job))


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


def _code(ray: Any, reference: Any, job: Job) -> int:
    """Return the exit code of a job; 1 where Ray lost it more often than it tries again."""
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayError as error:
        with job.log.open("a", encoding="utf-8") as out:
            out.write(f"Lost by Ray: {error}\n")
        return 1


def _address(on: str) -> str | None:
    """Return the address to give to ray.init: none for `ray`, which takes the cluster of RAY_ADDRESS or begins one."""
    return os.environ.get("RAY_ADDRESS") if on == RAY else on
