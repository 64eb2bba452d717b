"""The C files here, compiled by the machine's own compiler when they are first wanted, and kept in the cache.

What is kept is code, unlike all else in the cache: it lies in a folder that nobody else can write to, and is loaded
from no other. What a group or anybody could have written there before is removed and made again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunelift.core import cache, machine

SOURCES = [
    Path(__file__).with_name(name)
    for name in ("passes.c", "attention.c", "low_rank.c", "int8.c", "nf4.c", "blocks.c", "decoder.c")
]
HEADERS = [Path(__file__).with_name(name) for name in ("elements.h", "products.h")]
COMMON = ("-march=native", "-fno-math-errno", "-fno-strict-aliasing", "-fopenmp", "-fPIC")
FLAGS = ("-O3", "-fno-trapping-math", *COMMON)
SANITIZED = (
    *("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"),
    *("-fsanitize=address,undefined", *COMMON),
)
"""For a process into which libasan and libubsan are loaded before all else (`make sanitize`)."""

COMPILE_SECONDS = 120
OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UncompiledError(Exception):
    """The kernels cannot be had here; the message says why."""


def compiled(extra: tuple[str, ...], *, sanitized: bool = False) -> ctypes.CDLL:
    """Return the functions compiled with these flags too, those of the cache if it has them; raise UncompiledError."""
    if sys.platform != "linux":
        raise UncompiledError("they are compiled on Linux only")
    flags = (*(SANITIZED if sanitized else FLAGS), *extra)
    name = f"{_key(flags)}.so"
    try:
        with _own_folder(cache.folder() / "kernels") as folder:
            if not _is_own(name, folder):
                _compile(flags, name, folder)
            # By the folder that was looked at: whoever may rename what is above it cannot put another in its place.
            return ctypes.CDLL(f"/proc/self/fd/{folder}/{name}")
    except FileNotFoundError as error:
        raise UncompiledError("there is no C compiler (cc)") from error
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UncompiledError(f"the C compiler failed ({said[0][:200] if said else error})") from error
    except OSError as error:
        raise UncompiledError(f"the compiled functions cannot be loaded ({error})") from error


@contextmanager
def _own_folder(path: Path) -> Iterator[int]:
    """Open a folder that nobody but its owner, this user or root, can write to; one that others could is emptied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        facts = os.fstat(folder)
        if facts.st_uid not in (0, os.getuid()):
            raise UncompiledError(f"{path} belongs to another user; TUNELIFT_CACHE names another place")
        if facts.st_mode & OTHERS:
            _take_back(folder)
        yield folder
    finally:
        os.close(folder)


def _take_back(folder: int) -> None:
    """Close a folder to others, and remove whatever they may have put there."""
    os.fchmod(folder, 0o700)
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        shutil.rmtree(name, dir_fd=folder) if is_folder else os.unlink(name, dir_fd=folder)


def _is_own(name: str, folder: int) -> bool:
    """Tell whether this file is there and nobody but this user or root could have written it."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_uid in (0, os.getuid()) and not facts.st_mode & OTHERS


def _compile(flags: tuple[str, ...], name: str, folder: int) -> None:
    """Compile and put in place whole. It is linked to no OpenMP of its own: that of torch is in the process already,
    and a second one would have threads of its own beside it."""
    compiler = os.environ.get("CC") or "cc"
    with tempfile.TemporaryDirectory() as scratch:
        made, linked = [Path(scratch, f"{source.stem}.o") for source in SOURCES], Path(scratch, "kernels.so")
        for command in (
            *([*compiler.split(), *flags, "-c", str(s), "-o", str(o)] for s, o in zip(SOURCES, made, strict=True)),
            [*compiler.split(), "-shared", "-nostdlib", *map(str, made), "-o", str(linked)],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        _put(linked.read_bytes(), name, folder)


def _put(code: bytes, name: str, folder: int) -> None:
    unfinished = f"{name}.{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(unfinished, dir_fd=folder)
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700, dir_fd=folder)
    with os.fdopen(file, "wb") as out:
        out.write(code)
    os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)


def _key(flags: tuple[str, ...]) -> str:
    """Return what stands for source, flags and this processor, for which they are compiled."""
    about = [
        *(file.read_bytes() for file in (*HEADERS, *SOURCES)),
        " ".join(flags).encode(),
        platform.machine().encode(),
        machine.instructions().encode(),
    ]
    return hashlib.sha256(b"\0".join(about)).hexdigest()[:16]
