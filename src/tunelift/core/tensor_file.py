"""Tensors written to a safetensors file one after another, and read again, none of them held in memory twice.

`safetensors.torch.save` makes all bytes twice in memory first, which of a model that is trained whole is eight times
its weights. The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from tunelift.core import files

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
READ_AT_ONCE = 1 << 22


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write tensors to a new file; return its bytes and their SHA-256, taken before they met the disk."""
    return files.write_parts(path, _parts(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, each with memory of its own; raise ValueError where it is no safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no mapping
    except Exception as error:
        raise ValueError(f"its tensors cannot be read ({error})") from error


def hashed(path: Path) -> tuple[int, str]:
    """Return a file's bytes and their SHA-256."""
    sha, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            sha.update(part)
            count += len(part)
    return count, sha.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the file: the header, then each tensor's bytes, those of wide numbers first, so that all lie aligned."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, at = {}, 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        if len(flat):
            yield flat.view(torch.uint8).numpy().data
