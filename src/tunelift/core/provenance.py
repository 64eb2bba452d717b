"""How a result was made: versions, commit, command line, memory."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("tunelift", "torch", "transformers", "peft", "safetensors", "tokenizers", "datasets", "numpy", "scipy")

BESIDE = (
    *("scikit-learn", "rensa", "jinja2", "huggingface-hub", "pyarrow", "sentencepiece", "tiktoken", "pillow"),
    *("bitsandbytes", "gguf", "lm-eval", "sacrebleu", "rouge-score", "jsonschema", "sentence-transformers"),
)
"""Further packages on which what is read, rendered or measured depends, where they are installed."""


def versions(beside: Sequence[str] = ()) -> dict[str, str]:
    """Return the version of Python and of each installed package of the numbers' making, and of those beside."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *beside):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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


def _git(folder: str | Path, *arguments: str) -> str | None:
    """Return what git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
