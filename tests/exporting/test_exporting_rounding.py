"""What rounding leaves of a small change: nothing, where the base's own weights lie on the steps of rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import exported
import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.exporting import evidence, manifest
from tunelift.exporting.checking import LEFT, ExportFailed
from tunelift.exporting.equality import share_left
from tunelift.pipeline.exporting import export_stage

BASE, TUNED = {"a": [-1.0, -2.0], "b": [-3.0]}, {"a": [-1.5, -2.0], "b": [-2.0]}


def moved(share: float, by: float = 0.3) -> dict[str, list[float]]:
    """Return what a file gives in which so much of the change is left, all of it rounded `by` so much."""
    return {name: [x + share * (y - x) + by for x, y in zip(BASE[name], TUNED[name], strict=True)] for name in BASE}


def test_the_share_is_that_of_the_change_whatever_rounding_does_to_both() -> None:
    for share in (0.0, 0.4, 1.0, -1.0, 2.0):
        assert share_left(BASE, TUNED, moved(0), moved(share)) == pytest.approx(share)
    assert share_left(BASE, BASE, BASE, TUNED) is None


def test_a_file_that_lost_what_was_tuned_fails_its_proof(tmp_path: Path) -> None:
    def kept(sides: dict[str, dict[str, list[float]]], name: str) -> list[dict[str, object]]:
        for side, scores in sides.items():
            evidence.save(tmp_path / name, side, scores, {})
        return manifest.left(tmp_path / name)

    sides = {evidence.BASE: BASE, evidence.BASE_THERE: BASE, evidence.MODEL: TUNED, evidence.BASE_ROUNDED: moved(0)}
    (lost,) = kept(sides | {evidence.TUNED_ROUNDED: moved(0.06)}, "lost")
    assert (lost["name"], lost["passed"]) == (LEFT, False)
    assert str(lost["detail"]).startswith("6% of what tuning changes") and "--to lora-gguf" in str(lost["detail"])
    (left,) = kept(sides | {evidence.TUNED_ROUNDED: moved(0.9)}, "left")
    assert left["passed"]
    assert kept(sides, "not rounded") == []
    assert kept(sides | {evidence.MODEL: BASE, evidence.TUNED_ROUNDED: moved(0)}, "too alike") == []


@pytest.mark.parametrize("on_steps", [True, False])
def test_llama_cpp_answers_as_untuned_where_the_base_lies_on_the_steps(tmp_path: Path, *, on_steps: bool) -> None:
    pytest.importorskip("xllamacpp", reason="an extra that CI lacks")
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_attention_heads": 4}
    model = tiny_models.causal("llama", **wide, num_key_value_heads=2)
    for parameter in model.parameters() if on_steps else ():
        if parameter.dim() == 2:
            rounded = quantize(parameter.detach().numpy().astype(np.float32), GGMLQuantizationType.Q8_0)
            parameter.data = torch.from_numpy(dequantize(rounded, GGMLQuantizationType.Q8_0).copy())
    model.save_pretrained(tmp_path / "model")
    exported.tokenizer().save_pretrained(tmp_path / "model")
    data = {
        "train": str(write_rows(tmp_path / "train.csv", 40)),
        "test": str(write_rows(tmp_path / "test.csv", 20, 100)),
    }
    tunelift.run(
        model=str(tmp_path / "model"),
        data=data,
        train={"steps": 3, "learning_rate": 3e-4},
        dtype="float32",
        output=str(tmp_path / "out"),
        evaluate={"baselines": [], "forgetting": []},
    )
    if not on_steps:
        folder = export_stage(tmp_path / "out", "gguf", None, "q8_0")
        assert any(one["name"] == LEFT for one in manifest.left(folder))
        return
    with pytest.raises(ExportFailed, match=r"what was tuned is left: -?\d+% of what tuning"):
        export_stage(tmp_path / "out", "gguf", None, "q8_0")
    assert not list((tmp_path / "out" / "exports").glob("gguf*"))
