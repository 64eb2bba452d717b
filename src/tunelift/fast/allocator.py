"""Keeps freed memory in the process, so that large tensors are not page-faulted in again at every step."""

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
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (only glibc has it)
        mallopt = library.mallopt
    except (AttributeError, OSError):
        return False
    mapped = mallopt(M_MMAP_THRESHOLD, LARGEST) or mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_BEFORE_2_35)
    return bool(mallopt(M_TRIM_THRESHOLD, LARGEST) and mapped)
