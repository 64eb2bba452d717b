"""The machine as this process has it: processor, cores, devices, and the memory it may use.

That memory is the machine's, or less where a container or another control group says so.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

Result = TypeVar("Result")

CPUINFO = Path("/proc/cpuinfo")
THREADS = Path("/proc/self/task")
"""Where Linux has a folder for each thread; the second number of its schedstat is what it waited for a core (ns)."""

WAITING = 0.05
"""The share of a measurement's time that its threads together may have waited for a core."""

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides which precision is fast on an x86 processor, as Linux names it."""

LIMITS = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
"""The files of a control group that hold a limit (bytes), by the kind of file system that shows the group.

https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/memory.html beside it. Above memory.high a process is
slowed until others' memory is taken back: copies beyond it cost more than they give.
"""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What bounds the resident memory of this process: its name, and up to how many bytes of it there may be.

    `hard` (bytes) counts swap too, as far as there may be any: what takes more cannot run. None where the process is
    slowed and no more. Beyond one that `kills` it ends without a word; beyond another it is told.
    """

    name: str
    bytes: int
    hard: int | None
    kills: bool


@dataclass(frozen=True, slots=True)
class Resident:
    """The memory of this process (bytes): all of it that is resident, its own, and that of files which are mapped.

    `peak` is the most that was resident, and `virtual` and `data` what RLIMIT_AS and RLIMIT_DATA count.
    """

    all: int
    own: int
    files: int
    peak: int
    virtual: int
    data: int


@functools.cache
def described() -> dict[str, Any]:
    """Return platform, processor, its flags of CPU_FLAGS, usable cores and memory (bytes); None where unknown."""
    flags = _first_processor().get("flags", "").split()
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": cores(),
        "memory_bytes": usable_bytes(),
    }


def processor() -> str:
    """Return the name of the first processor, by its maker or else by the platform."""
    return _first_processor().get("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Return names and flags of every kind of processor here, on which depends what is compiled for this machine."""
    lines = [line for line in _lines(CPUINFO) if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(dict.fromkeys(lines)) or platform.processor()


def vectors() -> str:
    """Return the widest instructions that torch computes with on this processor, such as "AVX2" or "AVX512"."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def had_cores(work: Callable[[], Result]) -> tuple[Result, bool]:
    """Return what `work` gives, and whether its threads hardly waited for a core meanwhile.

    The kernel counts how long a thread that could run did not. Where it tells nobody, the load of the last minute
    must have left the cores enough; True where that is not known either.
    """
    before, begun = _waited(), time.perf_counter()
    result = work()
    after, seconds = _waited(), time.perf_counter() - begun
    if before is not None and after is not None:
        return result, after - before <= WAITING * seconds
    try:
        return result, os.getloadavg()[0] <= cores()
    except (AttributeError, OSError):
        return result, True


def _waited() -> float | None:
    """Return the seconds that this process's threads have waited for a core so far; None where nobody counts."""
    try:
        told = [int(path.read_text().split()[1]) for path in THREADS.glob("*/schedstat")]
    except (OSError, ValueError, IndexError):
        return None
    return sum(told) / 1e9 if any(told) else None


def devices() -> dict[str, int]:
    """Return how many devices of each kind torch finds here, the fastest kind first."""
    import torch

    return {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}


def usable_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process may use: the smallest of the machine's and its groups' limits.

    None where neither can be read. `root` is where /proc and /sys are looked for.
    """
    known = [_of_machine(), *(count for _, count in _of_groups(root))]
    return min((count for count in known if count is not None), default=None)


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Return every limit of this process's resident memory that can be read, the lowest first.

    Limits of the process itself count addresses (RLIMIT_AS) or private pages (RLIMIT_DATA): they are told as what is
    resident now and what may be added to it.
    """
    swap = _of_meminfo(root, "SwapTotal") or 0
    machines = _of_machine()
    found = [MemoryLimit("the machine's memory", machines, machines + swap, kills=True)] if machines else []
    for file, count in _of_groups(root):
        if machines is None or count < machines:  # version 1 writes "none" as a huge number
            kills = file.name != "memory.high"
            found.append(
                MemoryLimit(f"{file.name} of the control group", count, count + swap if kills else None, kills)
            )
    return sorted([*found, *_of_process(root)], key=lambda limit: limit.bytes)


def _of_process(root: Path) -> Iterator[MemoryLimit]:
    """Yield the limits that the process has by itself (ulimit -v and -d)."""
    now = resident(root)
    try:
        import resource
    except ImportError:  # Windows has none
        return
    if now is None:
        return
    for name, used in (("RLIMIT_AS", now.virtual), ("RLIMIT_DATA", now.data)):
        limit, _ = resource.getrlimit(getattr(resource, name))
        if limit != resource.RLIM_INFINITY:
            room = now.all + max(0, limit - used)
            yield MemoryLimit(name, room, room, kills=False)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return how much memory this process could have now beside all others, with what it has; None if not known."""
    free, now = _of_meminfo(root, "MemAvailable"), resident(root)
    return None if free is None else free + (now.all if now else 0)


def resident(root: Path = Path("/")) -> Resident | None:
    """Return the memory of this process, None where the system does not say (it is Linux that does)."""
    lines = (line.split() for line in _lines(root / "proc/self/status"))
    known = {parts[0]: int(parts[1]) * 1024 for parts in lines if len(parts) == 3 and parts[2] == "kB"}
    names = ("VmRSS:", "RssAnon:", "RssFile:", "VmHWM:", "VmSize:", "VmData:")
    return Resident(*(known[name] for name in names)) if all(name in known for name in names) else None


def forget_peak() -> None:
    """Let the peak of resident memory begin anew from what is resident now, where the system does that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc_pid_clear_refs


def seconds_since_start(root: Path = Path("/")) -> float | None:
    """Return how long ago this process began; None where the system does not say."""
    fields = " ".join(_lines(root / "proc/self/stat")).rpartition(")")[2].split()
    up = " ".join(_lines(root / "proc/uptime")).split()
    if len(fields) < 20 or not up:
        return None
    return float(up[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of man 5 proc_pid_stat


def _of_meminfo(root: Path, name: str) -> int | None:
    """Return a line of /proc/meminfo in bytes, None where it is not there."""
    lines = (line.split() for line in _lines(root / "proc/meminfo"))
    return next((int(parts[1]) * 1024 for parts in lines if parts[:1] == [f"{name}:"]), None)


def _first_processor() -> dict[str, str]:
    """Return the facts of the first processor in /proc/cpuinfo, or none where there is no such file."""
    pairs = (line.partition(":") for line in itertools.takewhile(str.strip, _lines(CPUINFO)))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _of_machine() -> int | None:
    try:
        count = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows and others that do not say
        return None
    return count if count > 0 else None  # -1: the system does not know it


def _of_groups(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield every limit of the groups that this process is in and of all those above them, with its file."""
    paths = _paths(_lines(root / "proc/self/cgroup"))
    for kind, shown, mount in _mounts(_lines(root / "proc/self/mountinfo")):
        for folder in _folders(root / mount.lstrip("/"), shown, paths.get(kind, "/")):
            for name in LIMITS[kind]:
                yield from ((folder / name, int(one)) for one in _lines(folder / name)[:1] if one.isdecimal())


def _mounts(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, the part of the hierarchy that is shown, and the place of each mount that may hold limits.

    Lines are like 35 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory (man 5 proc_pid_mountinfo).
    """
    for line in lines:
        fields, _, described = line.partition(" - ")
        places, about = fields.split()[3:5], described.split()
        if len(places) < 2 or not about or about[0] not in LIMITS:
            continue
        if about[0] == "cgroup2" or "memory" in about[-1].split(","):
            shown, mount = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), part) for part in places)
            yield about[0], shown, mount


def _paths(lines: list[str]) -> dict[str, str]:
    """Return the path of this process's group in each kind of hierarchy, of lines like 4:memory:/a/b and 0::/a/b."""
    found = {}
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            found["cgroup2"] = path
        elif "memory" in controllers.split(","):
            found["cgroup"] = path
    return found


def _folders(mount: Path, shown: str, path: str) -> list[Path]:
    """Return the group's folder and those above it, up to where the hierarchy is mounted, which shows `shown` of it.

    A container often sees its own part alone: a path that does not lie below what is shown ends at the mount.
    """
    own = PurePosixPath(path)
    if ".." in own.parts or not own.is_relative_to(shown):
        return [mount]
    below = own.relative_to(shown)
    return [mount / part for part in (below, *below.parents)]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
