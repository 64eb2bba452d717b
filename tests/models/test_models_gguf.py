"""The GGUF reader: it reads what is sound, and refuses, with one kind of error, everything that is not."""

from __future__ import annotations

import importlib.util
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunelift.core.errors import InputError
from tunelift.untrusted.gguf import read

UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
F32, Q8_0 = 0, 8


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str, sizes: list[int], kind: int, offset: int) -> bytes:
    head = text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return head + struct.pack("<IQ", kind, offset)


def gguf_bytes(pairs: list[bytes], entries: list[bytes], data: bytes = b"", version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(entries), len(pairs)) + b"".join(pairs) + b"".join(entries)
    return head + bytes(-len(head) % 32) + data


PAIRS = [
    pair("general.architecture", STRING, text("gémma")),
    pair("count", UINT32, struct.pack("<I", 7)),
    pair("scale", FLOAT32, struct.pack("<f", 0.5)),
    pair("flag", BOOL, b"\x01"),
    pair("tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("") + text("日")),
    pair("numbers", ARRAY, struct.pack("<IQ3I", UINT32, 3, 1, 2, 3)),
    pair("nested", ARRAY, struct.pack("<IQ", ARRAY, 2) + 2 * struct.pack("<IQ2I", UINT32, 2, 8, 9)),
]
VALUES = np.arange(6, dtype="<f4")
ENTRIES = [entry("weights", [3, 2], F32, 0), entry("packed", [32], Q8_0, 32)]
SOUND = gguf_bytes(PAIRS, ENTRIES, VALUES.tobytes() + bytes(8) + bytes(34))


@pytest.fixture
def reading(tmp_path: Path) -> Callable[[bytes], object]:
    def write_and_read(raw: bytes) -> object:
        path = tmp_path / "model.gguf"
        path.write_bytes(raw)
        return read(path)

    return write_and_read


@pytest.mark.parametrize("version", [2, 3])
def test_reads_every_kind_of_value(tmp_path: Path, version: int) -> None:
    (tmp_path / "model.gguf").write_bytes(SOUND[:4] + struct.pack("<I", version) + SOUND[8:])
    file = read(tmp_path / "model.gguf")
    assert file.metadata["general.architecture"] == "gémma"
    assert (file.metadata["count"], file.metadata["scale"], file.metadata["flag"]) == (7, 0.5, True)
    assert file.metadata["tokens"] == ["a", "", "日"]
    assert file.metadata["numbers"].tolist() == [1, 2, 3]
    assert [inner.tolist() for inner in file.metadata["nested"]] == [[8, 9], [8, 9]]
    assert file.tensors["weights"].shape == (2, 3)
    assert np.array_equal(file.blocks("weights").view("<f4"), VALUES.reshape(2, 3))
    assert file.blocks("packed").shape == (34,)


def test_refuses_the_file_cut_off_at_every_byte(reading: Callable[[bytes], object]) -> None:
    for length in range(len(SOUND)):
        with pytest.raises(InputError, match=r"model\.gguf"):
            reading(SOUND[:length])


def test_damaged_bytes_are_read_or_refused_and_never_crash(reading: Callable[[bytes], object]) -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(4000):
        raw = bytearray(SOUND)
        for _ in range(rng.choice([1, 1, 2, 4])):
            raw[rng.randrange(len(raw))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        try:
            reading(bytes(raw))
        except InputError:
            refused += 1
    assert refused > 1000


def many_arrays(depth: int) -> bytes:
    return b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(depth)) + struct.pack("<IQ", UINT32, 0)


HUGE = struct.pack("<Q", 2**63)
HOSTILE = {
    "GGUF": b"GGML" + SOUND[4:],
    "version": gguf_bytes(PAIRS, [], version=1),
    "little-endian": SOUND[:4] + struct.pack(">I", 3) + SOUND[8:],
    "number of tensors": SOUND[:8] + HUGE + SOUND[16:],
    "number of metadata pairs": SOUND[:16] + HUGE + SOUND[24:],
    "length of 'a'": gguf_bytes([pair("a", ARRAY, struct.pack("<I", STRING) + HUGE)], []),
    "'a' needs": gguf_bytes([pair("a", STRING, HUGE)], []),
    "nests arrays": gguf_bytes([pair("a", ARRAY, many_arrays(5))], []),
    "unknown type 99": gguf_bytes([pair("a", 99, b"\x00")], []),
    "truth value": gguf_bytes([pair("a", BOOL, b"\x02")], []),
    "not UTF-8": gguf_bytes([pair("a", STRING, struct.pack("<Q", 1) + b"\xff")], []),
    "'a' stands twice": gguf_bytes([pair("a", BOOL, b"\x01")] * 2, []),
    "alignment": gguf_bytes([pair("general.alignment", UINT32, struct.pack("<I", 0))], []),
    "dimensions": gguf_bytes([], [entry("t", [1] * 5, F32, 0)]),
    "'t' stands twice": gguf_bytes([], [entry("t", [8], F32, 0), entry("t", [8], F32, 32)], bytes(64)),
    "lies over": gguf_bytes([], [entry("t", [16], F32, 0), entry("u", [8], F32, 32)], bytes(64)),
    "no multiple": gguf_bytes([], [entry("t", [8], F32, 4)], bytes(64)),
    "beyond the end": gguf_bytes([], [entry("t", [2**40, 2**40], F32, 0)], bytes(64)),
    "does not suit blocks": gguf_bytes([], [entry("t", [31], Q8_0, 0)], bytes(64)),
    "shape \\[0\\]": gguf_bytes([], [entry("t", [0], F32, 0)], bytes(64)),
    "unknown type 77": gguf_bytes([], [entry("t", [8], 77, 0)], bytes(64)),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files_are_refused_by_name(message: str, reading: Callable[[bytes], object]) -> None:
    with pytest.raises(InputError, match=message):
        reading(HOSTILE[message])


def test_without_the_gguf_package_it_is_asked_for(
    reading: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'tunelift\[gguf\]'"):
        reading(SOUND)


def test_a_missing_and_an_empty_file_are_refused(tmp_path: Path, reading: Callable[[bytes], object]) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        reading(b"")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.gguf")
