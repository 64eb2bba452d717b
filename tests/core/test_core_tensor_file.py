"""Tensors in a file: stock safetensors reads them, aligned, and what was written is what was hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tunelift.core.tensor_file import NAMES, hashed, read_tensors, write_tensors


def test_stock_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"of {str(dtype)[6:]}/ä": (10 * torch.randn(3, 5)).to(dtype) for dtype in NAMES}
    tensors |= {
        "scalar": torch.tensor(7.0),
        "none": torch.empty(0, 4),
        "one byte": torch.tensor([3], dtype=torch.uint8),
    }
    tensors["turned"] = torch.randn(4, 6).T
    count, sha = write_tensors(tmp_path / "tensors", tensors)
    content = (tmp_path / "tensors").read_bytes()
    assert (count, sha) == (len(content), hashlib.sha256(content).hexdigest()) == hashed(tmp_path / "tensors")
    for found in (load_file(tmp_path / "tensors"), read_tensors(tmp_path / "tensors")):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    size = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + size]).items():
        assert (8 + size + entry["data_offsets"][0]) % tensors[name].element_size() == 0
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "tensors", {})


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 9])
def test_what_is_no_such_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tensors").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_tensors(tmp_path / "tensors")
