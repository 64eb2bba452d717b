"""What glibc does with freed memory: kept, that large tensors are not page-faulted in again at every step, or not."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 2**31 - 1
"""The largest threshold, for mallopt takes an int: smaller requests come from the heap, and what is freed stays."""

LARGEST_MMAP_BEFORE_2_35 = 2**25
"""Older versions of glibc refuse a larger mmap threshold (bytes)."""


def keep_freed_memory() -> bool:
    """Raise glibc's mmap and trim thresholds; return False where the C library is another one and nothing was done."""
    library = _glibc()
    if library is None:
        return False
    mapped = library.mallopt(M_MMAP_THRESHOLD, LARGEST) or library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_BEFORE_2_35)
    return bool(library.mallopt(M_TRIM_THRESHOLD, LARGEST) and mapped)


def give_back_freed_memory() -> None:
    """Let glibc give pages without anything in them back to the system; nothing is done with another C library."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (only glibc has it)
    except (AttributeError, OSError):
        return None
    return library
