"""K-quants, made by llama.cpp's own quantiser: the types that tensors get, and how near they are to the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import exported
from exported import KINDS
from tunelift.cli.export import _verdict
from tunelift.core.errors import TuneliftError
from tunelift.exporting import k_quants
from tunelift.untrusted.gguf import read

pytest.importorskip("cyllama", reason="K-quants are made where the extra k-quants is installed")

NARROW = {"hidden_size": 32, "intermediate_size": 48, "head_dim": 16}
"""Widths that no blocks of 256 fit."""


def quantised(kind: str, type_: str, folder: Path, **widths: int) -> tuple[Path, Path]:
    exact = exported.write_base(folder / "exact.gguf", exported.model(kind, **widths))
    k_quants.quantise(exact, folder / "model.gguf", type_)
    return exact, folder / "model.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_each_architecture_are_near_in_q4_k_m_and_none_falls_back_where_blocks_fit(
    kind: str, tmp_path: Path
) -> None:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    exact, file = quantised(kind, "q4_k_m", tmp_path)
    types, by_width = k_quants.types_of(file)
    assert types["q4_k"] > 1 and types["q6_k"] and types.keys() <= {"f32", "q4_k", "q5_k", "q6_k"} and not by_width
    there, right = read(file), read(exact)
    assert there.tensors.keys() == right.tensors.keys()
    assert there.metadata["general.file_type"] == k_quants.K_QUANTS["q4_k_m"]
    for name, tensor in there.tensors.items():
        values = right.blocks(name).view(np.float32)
        found = dequantize(there.blocks(name), GGMLQuantizationType(tensor.type)).reshape(values.shape)
        assert np.linalg.norm(found - values) <= 0.12 * np.linalg.norm(values), name


def test_what_falls_back_by_its_width_is_counted(tmp_path: Path) -> None:
    types, by_width = k_quants.types_of(quantised("llama", "q4_k_m", tmp_path, **NARROW)[1])
    assert not any(name.endswith("_k") for name in types)
    assert by_width == {name: count for name, count in types.items() if name != "f32"}
    assert by_width["f16"] == 2  # blocks of 32 fit widths of 48 neither


def test_every_mixture_is_written_and_the_finer_is_the_larger(tmp_path: Path) -> None:
    exact = exported.write_base(tmp_path / "exact.gguf", exported.model("llama"))
    sizes = []
    for kind in k_quants.K_QUANTS:
        k_quants.quantise(exact, tmp_path / f"{kind}.gguf", kind)
        sizes.append((tmp_path / f"{kind}.gguf").stat().st_size)
    assert sizes == sorted(sizes) and len(set(sizes)) > 6


def test_what_the_quantiser_says_is_shown(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(16))
    with pytest.raises(TuneliftError, match=r"llama\.cpp does not write q4_k_m: "):
        k_quants.quantise(tmp_path / "broken.gguf", tmp_path / "model.gguf", "q4_k_m")
    assert not (tmp_path / "model.gguf").exists()


def test_a_verdict_says_by_how_much() -> None:
    worse = {"verdict": "worse", "difference": -0.013, "interval": [-0.022, -0.004]}
    assert _verdict("q4_k_m", "accuracy", worse) == "q4_k_m is worse by 1.3 points of accuracy (0.4 to 2.2)"
    worse = {"verdict": "worse", "difference": 0.06, "interval": [0.01, 0.14]}
    assert _verdict("q8_0", "loss", worse) == "q8_0 is worse by 0.06 of loss (0.01 to 0.14)"
    open_ = {"verdict": "inconclusive", "difference": -0.01, "interval": [-0.03, 0.01]}
    told = "q4_k_m against the model: inconclusive, -1 points of accuracy (-3 to +1)"
    assert _verdict("q4_k_m", "accuracy", open_) == told
