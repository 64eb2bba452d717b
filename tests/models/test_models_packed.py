"""Weights that compressed-tensors has packed into words of 32 bits: widened while they are read, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_models_prequantized import opened, rounded, same_numbers, says, written
from torch import Tensor

from tunelift.core.errors import InputError


def packed(codes: Tensor, bits: int) -> Tensor:
    """Pack rows of whole numbers from 0 on into words of 32 bits, the first in the lowest bits."""
    each = 32 // bits
    codes = torch.nn.functional.pad(codes.long(), (0, -codes.shape[1] % each)).unflatten(1, (-1, each))
    words = (codes << bits * torch.arange(each)).sum(-1)
    return torch.where(words < 2**31, words, words - 2**32).to(torch.int32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, 64), (4, 128), (4, None), (8, 32), (8, None)])
def test_packed_compressed_tensors_are_widened(tmp_path: Path, bits: int, size: int | None, symmetric: bool) -> None:
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    half, own = 2 ** (bits - 1), torch.Generator().manual_seed(0)

    def in_groups(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        rows, columns = weight.shape
        groups = columns // (size or columns)
        codes = torch.randint(-half, half, (rows, columns), generator=own)
        zero = torch.zeros(rows, groups) if symmetric else torch.randint(-half, half, (rows, groups), generator=own)
        scale = torch.rand(rows, groups, generator=own) / 100 + 1e-3
        numbers = (codes.unflatten(1, (groups, -1)) - zero.unsqueeze(-1)).float() * scale.unsqueeze(-1)
        stem = name.removesuffix(".weight")
        stored = {
            f"{stem}.weight_packed": packed(codes + half, bits), f"{stem}.weight_scale": scale,
            f"{stem}.weight_shape": torch.tensor([rows, columns]),
        }  # fmt: skip
        if not symmetric:  # packed along the rows
            stored[f"{stem}.weight_zero_point"] = packed((zero + half).T, bits).T.contiguous()
        return stored, numbers.flatten(1)

    told = in_groups_of(bits, size, symmetric)
    numbers = rounded(written(tmp_path, hidden_size=128, intermediate_size=256, head_dim=32), told, in_groups)
    session = opened(tmp_path)
    assert same_numbers(session.model, numbers) and "widened from compressed-tensors" in session.identity.note


def in_groups_of(bits: int, size: int | None, symmetric: bool = True, **more: Any) -> dict[str, Any]:
    """Return what a config.json says of packed weights, with a scale for each group of so many, or for each row."""
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, "group_size": size, **more}
    weights["strategy"] = "group" if size else "channel"
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (in_groups_of(4, 32, actorder="group"), "columns in another order"),
        (in_groups_of(3, 32), "numbers of 3 bits"),
        (in_groups_of(4, 32) | {"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized"),
    ],
)
def test_other_ways_of_packing_are_refused(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    says(written(tmp_path), told)
    with pytest.raises(InputError, match=f"quantised by compressed-tensors.*{said}"):
        opened(tmp_path)
