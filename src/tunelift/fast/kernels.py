"""The functions of the C files here, compiled for this machine when they are first wanted.

A C compiler is all that takes; without one everything runs as before. TUNELIFT_KERNELS=0
forbids it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunelift.core import cache

SOURCES = [Path(__file__).with_name(name) for name in ("passes.c", "attention.c", "low_rank.c")]
HEADERS = [Path(__file__).with_name(name) for name in ("elements.h", "products.h")]
SWITCH = "TUNELIFT_KERNELS"
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
TYPES = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
COMPILE_SECONDS = 60

P, N, F, D, I = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_int  # noqa: E741 (the letters of ctypes' codes)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rms_norm": (P, P, P, P, N, N, F, F, I),
    "rms_norm_backward": (P, P, P, P, P, N, N, F, I),
    "gated": (P, P, P, N, I, I),
    "gated_backward": (P, P, P, P, P, N, I, I),
    "rotated": (P, P, P, P, N, N, N, N, N, N, N, I, I),
    "dropout": (P, P, N, N, D, I),
    "tile_softmax": (P, P, P, P, P, P, N, N, F, F, I, I),
    "attention": (P, P, P, P, P, P, P, I),
    "attention_backward": (P, P, P, P, P, P, P, P, P, P, P, I),
    "attention_space": (P, I, I),
    "low_rank_runs": (),
    "low_rank_in": (P, P, P, P, N, N, N, N, N, N, N, F, I),
    "low_rank_out": (P, P, P, P, N, N, N, N, N, N, N, F, I),
    "low_rank_weights": (P, P, P, P, N, N, N, N, N, F, I),
}
RETURNS = {"attention_space": N, "low_rank_runs": I}

_forbidden: ContextVar[bool] = ContextVar("whether the slow twins run in the calls inside", default=False)


class UncompiledError(Exception):
    """The kernels cannot be had here; the message says why."""


@contextmanager
def without() -> Iterator[None]:
    """Let everything inside run as torch has it."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def of(x: Tensor) -> ctypes.CDLL | None:
    """Return the compiled functions for tensors like this one, or None where it is to be computed as torch has it."""
    if x.device.type != "cpu" or x.dtype not in TYPES or _forbidden.get():
        return None
    try:
        return library(x.dtype)
    except UncompiledError:
        return None


def call(functions: ctypes.CDLL, name: str, *arguments: Any) -> None:
    """Call a function with tensors, as the addresses of their first elements, and numbers, on torch's threads."""
    plain = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    getattr(functions, name)(*plain, torch.get_num_threads())


def seed() -> int:
    """Return a seed for what a call draws, from torch's own generator."""
    return int(torch.randint(2**63 - 1, ()))


def library(dtype: torch.dtype) -> ctypes.CDLL:
    """Return the compiled functions for a dtype, from the cache where they are in it; raise UncompiledError."""
    if os.environ.get(SWITCH) == "0":
        raise UncompiledError(f"{SWITCH} is 0")
    if dtype not in TYPES:
        raise UncompiledError("they are for float32 and bfloat16 on a CPU")
    found = _library(dtype)
    if isinstance(found, str):
        raise UncompiledError(found)
    return found


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | str:
    """Return the functions, or why there are none, which is not asked twice."""
    if sys.platform != "linux":
        return "they are compiled on Linux only"
    # Where torch was told to do without AVX512 (ATEN_CPU_CAPABILITY), to see what another machine does.
    lowered = ("-mno-avx512f",) if torch.backends.cpu.get_cpu_capability() == "AVX2" else ()
    flags = (*FLAGS, *lowered, *TYPES[dtype])
    kept = cache.folder() / "kernels" / f"{_key(flags)}.so"
    try:
        if not kept.is_file():
            _compile(flags, kept)
        if not _own(kept):
            return f"{kept} may have been written by another user"
        functions = ctypes.CDLL(str(kept))
        for name, types in ARGUMENTS.items():
            getattr(functions, name).argtypes = types
            getattr(functions, name).restype = RETURNS.get(name)
    except FileNotFoundError:
        return "there is no C compiler (cc)"
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        return f"the C compiler failed ({said[0][:200] if said else error})"
    except (OSError, AttributeError) as error:
        return f"the compiled functions cannot be loaded ({error})"
    return functions


def _compile(flags: tuple[str, ...], into: Path) -> None:
    """Compile and put in place whole. It is linked to no OpenMP of its own: that of torch is in the process already,
    and a second one would have threads of its own beside it."""
    compiler = os.environ.get("CC") or "cc"
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        made, linked = [Path(scratch, f"{source.stem}.o") for source in SOURCES], Path(scratch, "kernels.so")
        for command in (
            *([*compiler.split(), *flags, "-c", str(s), "-o", str(o)] for s, o in zip(SOURCES, made, strict=True)),
            [*compiler.split(), "-shared", "-nostdlib", *map(str, made), "-o", str(linked)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        linked.replace(into)


def _own(path: Path) -> bool:
    """Tell whether nobody else but root could have put this file here: it is code, unlike all else in the cache."""
    facts = [path.stat(), path.parent.stat()]
    return all(fact.st_uid in (0, os.getuid()) and not fact.st_mode & stat.S_IWOTH for fact in facts)


def _key(flags: tuple[str, ...]) -> str:
    """Return what stands for source, flags and this processor, for which they are compiled."""
    about = [
        *(file.read_bytes() for file in (*HEADERS, *SOURCES)),
        " ".join(flags).encode(),
        platform.machine().encode(),
        _processor(),
    ]
    return hashlib.sha256(b"\0".join(about)).hexdigest()[:16]


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(dict.fromkeys(line for line in lines if line.startswith((b"model name", b"flags", b"Features"))))
