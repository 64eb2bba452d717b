"""Reads GGUF files that may be broken or hostile: every count, length and offset is checked before it is used.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import importlib.util
import mmap
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunelift.core import text_files
from tunelift.core.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))) | {10: "<u8", 11: "<i8", 12: "<f8"}
MAX_NESTING = 4
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: `shape` in torch's order (slowest first), `start` in bytes from the file's beginning."""

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file says about itself; tensor data is mapped and read only when asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data: memoryview

    def blocks(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the tensor's raw bytes as (..., bytes of one row)."""
        tensor = self.tensors[name]
        raw = np.frombuffer(self.data, np.uint8, tensor.bytes, tensor.start)
        return raw.reshape(*tensor.shape[:-1], -1)


def read(path: Path) -> GgufFile:
    """Read the metadata and the tensor table of a GGUF file.

    Raises InputError, naming the file and the byte, for whatever is missing, cut off, or out of bounds.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"Reading {path} needs the package gguf.", fix="Install it: pip install 'tunelift[gguf]'")
    text_files.check_size(path, sys.maxsize)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise InputError(f"{path} cannot be read: {error}.", fix="Give a .gguf file.") from error
    cursor = _Cursor(path, data)
    tensor_count, pair_count = _header(cursor)
    metadata = _metadata(cursor, pair_count)
    entries = _tensor_table(cursor, tensor_count)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment % 8:
        raise cursor.fail(f"general.alignment is {alignment!r}, not a multiple of 8 up to {MAX_ALIGNMENT}")
    return GgufFile(path, metadata, _place(cursor, entries, alignment), data)


class _Cursor:
    """A position in the file, moved on only over bytes that exist."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path, self.data, self.position = path, data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def fail(self, what: str) -> InputError:
        return InputError(
            f"{self.path} is not a sound GGUF file: {what:.300} (byte {self.position}).",  # names may be long
            fix="It may be cut off or damaged; copy or download it again.",
        )

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise self.fail(f"{what} needs {size} bytes where {self.left} are left")
        start = self.position
        self.position += size
        return self.data[start : start + size]

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> str:
        return self.text(self.take(self.uint64(what), what), what)

    def text(self, raw: memoryview, what: str) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error

    def count(self, smallest: int, what: str) -> int:
        """Read how many things follow; refused where so many of the smallest would not fit into the file."""
        count = self.uint64(what)
        if count * smallest > self.left:
            raise self.fail(f"{what} says {count}, more than the file can hold")
        return count


def _header(cursor: _Cursor) -> tuple[int, int]:
    if cursor.take(4, "the magic number") != MAGIC:
        raise InputError(f"{cursor.path} is not a GGUF file: it does not begin with GGUF.")
    version = cursor.uint32("the version")
    if version not in VERSIONS:
        raise cursor.fail(f"its version is {version}, and only little-endian versions 2 and 3 can be read")
    # A tensor's entry takes at least 32 bytes (empty name, one dimension), a pair 13 (empty key, one byte).
    tensors = cursor.count(32, "the number of tensors")
    return tensors, cursor.count(13, "the number of metadata pairs")


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise cursor.fail(f"the key {key!r} stands twice")
        metadata[key] = _value(cursor, cursor.uint32(f"the type of {key!r}"), repr(key), 0)
    return metadata


def _value(cursor: _Cursor, kind: int, what: str, depth: int) -> Any:
    """Return a number, a string, a numpy array of numbers, or a list of strings or arrays."""
    if kind == STRING:
        return cursor.string(what)
    if kind == ARRAY:
        return _array(cursor, what, depth + 1)
    return _numbers(cursor, kind, 1, what)[0].item()


def _array(cursor: _Cursor, what: str, depth: int) -> Any:
    if depth > MAX_NESTING:
        raise cursor.fail(f"{what} nests arrays more than {MAX_NESTING} deep")
    kind = cursor.uint32(what)
    if kind == STRING:
        return _strings(cursor, cursor.count(8, f"the length of {what}"), what)
    if kind == ARRAY:
        return [_array(cursor, what, depth + 1) for _ in range(cursor.count(12, f"the length of {what}"))]
    return _numbers(cursor, kind, cursor.count(1, f"the length of {what}"), what)


def _numbers(cursor: _Cursor, kind: int, count: int, what: str) -> npt.NDArray[Any]:
    if kind not in NUMBERS:
        raise cursor.fail(f"{what} has the unknown type {kind}")
    dtype = np.dtype(NUMBERS[kind])
    raw = cursor.take(count * dtype.itemsize, what)
    if kind == BOOL and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise cursor.fail(f"{what} has a truth value that is neither 0 nor 1")
    return np.frombuffer(raw, dtype)


def _strings(cursor: _Cursor, count: int, what: str) -> list[str]:
    """Read a vocabulary: the same checks as `_Cursor.string`, without a call per field, for 262,144 tokens at once."""
    data, position, end = cursor.data, cursor.position, len(cursor.data)
    length_at: Callable[[memoryview, int], tuple[int]] = struct.Struct("<Q").unpack_from
    strings = []
    for _ in range(count):
        start = position + 8
        position = start + length_at(data, position)[0] if start <= end else end + 1
        if position > end:
            raise cursor.fail(f"an element of {what} reaches beyond the end of the file")
        strings.append(cursor.text(data[start:position], what))
    cursor.position = position
    return strings


def _tensor_table(cursor: _Cursor, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Return (name, shape, type, offset within the data section) of each tensor."""
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.string("a tensor's name")
        if name in entries:
            raise cursor.fail(f"the tensor {name!r} stands twice")
        dimensions = cursor.uint32(f"the number of dimensions of {name!r}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise cursor.fail(f"{name!r} has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
        sizes = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions, f"the shape of {name!r}"))
        kind = cursor.uint32(f"the type of {name!r}")
        # ggml counts the fastest-moving dimension first, torch last.
        entries[name] = (name, sizes[::-1], kind, cursor.uint64(f"the offset of {name!r}"))
    return list(entries.values())


def _place(cursor: _Cursor, entries: list[tuple[str, tuple[int, ...], int, int]], alignment: int) -> dict[str, Tensor]:
    """Turn offsets within the data section into places in the file; tensors must lie apart and inside it."""
    base = -(-cursor.position // alignment) * alignment
    tensors = {}
    reached = 0
    for name, shape, kind, offset in sorted(entries, key=lambda entry: entry[3]):
        size = _size(cursor, name, shape, kind)
        if offset % alignment:
            raise cursor.fail(f"the offset {offset} of {name!r} is no multiple of {alignment}")
        if offset < reached:
            raise cursor.fail(f"{name!r} lies over another tensor")
        reached = offset + size
        if base + reached > len(cursor.data):
            raise cursor.fail(f"{name!r} reaches {base + reached - len(cursor.data)} bytes beyond the end of the file")
        tensors[name] = Tensor(name, shape, kind, base + offset, size)
    return tensors


def _size(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int) -> int:
    """Return the bytes of a tensor of this shape and type."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise cursor.fail(f"{name!r} has the unknown type {kind}") from error
    if min(shape) < 1 or shape[-1] % block:
        raise cursor.fail(f"the shape {list(shape)} of {name!r} does not suit blocks of {block}")
    return int(prod(shape) // block * block_bytes)
