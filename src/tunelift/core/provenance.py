"""How a result was made: versions, machine, commit, command line, memory."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tunelift.core import memory

PACKAGES = ("tunelift", "torch", "transformers", "peft", "safetensors", "tokenizers", "datasets", "numpy", "scipy")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What decides which precision is fast on an x86 processor, as Linux names it."""


def versions() -> dict[str, str]:
    """Return the version of Python and of each installed package that has a part in the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """Return platform, processor, its flags of CPU_FLAGS, usable cores and memory (bytes); None where unknown."""
    facts = _first_processor()
    flags = set(facts.get("flags", "").split())
    return {
        "platform": platform.platform(),
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": cores(),
        "memory_bytes": memory.usable_bytes(),
    }


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_commit(folder: str | Path = ".") -> str | None:
    """Return the commit of the repository that holds `folder`, with "+changes" where files differ from it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit


def command_line() -> str:
    """Return the command that started this process, as it would be typed."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    program = ["python", "-m", "tunelift"] if name == "__main__.py" else [name]
    return shlex.join([*program, *sys.argv[1:]])


def peak_bytes() -> int | None:
    """Return the largest memory (bytes) this process has held: of the GPU where torch used one, else resident memory.

    None where the system does not say.
    """
    torch = sys.modules.get("torch")  # never imported for this: without it nothing was on a GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return max(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))
    return _linux_peak_bytes() or _posix_peak_bytes()


def _linux_peak_bytes() -> int | None:
    """Return the high-water mark of this program; getrusage's would include that of the one that started it."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    marks = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(marks[0]) * 1024 if marks else None


def _posix_peak_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kilobytes


def _first_processor() -> dict[str, str]:
    """Return the facts of the first processor in /proc/cpuinfo, or none where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _git(folder: str | Path, *arguments: str) -> str | None:
    """Return what git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
