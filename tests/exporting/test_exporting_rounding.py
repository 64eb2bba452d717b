"""What rounding leaves of a small change: nothing, where the base's own weights lie on the steps of rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import exported
import task_battery
import tiny_models
import tunelift
from tunelift.exporting import evidence, manifest, to_genai, to_onnx
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
        return manifest.left(tmp_path / name, "f32")

    sides = {evidence.BASE: BASE, evidence.BASE_THERE: BASE, evidence.MODEL: TUNED, evidence.BASE_ROUNDED: moved(0)}
    (lost,) = kept(sides | {evidence.TUNED_ROUNDED: moved(0.06)}, "lost")
    assert (lost["name"], lost["passed"]) == (LEFT, False)
    told = str(lost["detail"])
    assert told.startswith("6% of what tuning changes") and told.endswith("; f32 keeps more")
    (left,) = kept(sides | {evidence.TUNED_ROUNDED: moved(0.9)}, "left")
    assert left["passed"]
    assert kept(sides, "not rounded") == []
    assert kept(sides | {evidence.MODEL: BASE, evidence.TUNED_ROUNDED: moved(0)}, "too alike") == []


@pytest.mark.parametrize("rounds_so", [True, False])
def test_llama_cpp_answers_as_untuned_where_the_base_lies_on_the_steps(tmp_path: Path, *, rounds_so: bool) -> None:
    pytest.importorskip("xllamacpp", reason="an extra that CI lacks")
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    model = exported.model("llama")
    for parameter in model.parameters() if rounds_so else ():
        if parameter.dim() == 2:
            rounded = quantize(parameter.detach().numpy().astype(np.float32), GGMLQuantizationType.Q8_0)
            parameter.data = torch.from_numpy(dequantize(rounded, GGMLQuantizationType.Q8_0).copy())
    run = exported.run_of(model, tmp_path, 3e-4)
    if not rounds_so:
        folder = export_stage(run, "gguf", None, "q8_0")
        assert any(one["name"] == LEFT for one in manifest.left(folder))
        return
    with pytest.raises(ExportFailed, match=r"what was tuned is left: -?\d+% of what .* \(--to lora-gguf\), keeps"):
        export_stage(run, "gguf", None, "q8_0")
    assert not list((run / "exports").glob("gguf*"))


def on_steps(weights: torch.Tensor, size: int, least: int, most: int) -> torch.Tensor:
    """Put each so many numbers on the steps of their largest, which is `least` of them below zero."""
    blocks = weights.reshape(-1, size)
    step = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12) / -least  # the row of padding is of zeros
    whole = (blocks / step).round().clamp(least, most)
    return (step * whole.scatter(1, blocks.abs().argmax(1, keepdim=True), least)).reshape(weights.shape)


def test_onnx_runtime_genai_answers_as_untuned_where_the_base_lies_on_the_steps_of_int4(tmp_path: Path) -> None:
    for package in to_genai.NEEDED:
        pytest.importorskip(package, reason="an extra that CI lacks")
    model = tiny_models.causal("llama", **exported.WIDE)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = on_steps(parameter.detach(), 32, -8, 7)
    run = exported.run_of(model, tmp_path, 3e-4)
    with pytest.raises(ExportFailed, match=r"what was tuned is left: -?\d+% of what tuning .* a wider type keeps more"):
        export_stage(run, "onnx", None, "int4")
    assert not list((run / "exports").glob("onnx*"))


def test_a_head_answers_as_untuned_where_the_base_lies_on_the_steps_of_int8(tmp_path: Path) -> None:
    """But for its bias, which is not rounded."""
    for package in to_onnx.NEEDED:
        pytest.importorskip(package, reason="an extra that CI lacks")
    how = task_battery.prepared("sequence-classification", tmp_path)
    labels = {"num_labels": 2, "id2label": {0: "green", 1: "red"}, "label2id": {"green": 0, "red": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(how["model"], **labels)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = on_steps(4 * parameter.detach(), parameter.numel(), -127, 127)
    model.save_pretrained(how["model"])
    how["train"] = {"steps": 3, "learning_rate": 1e-4}
    tunelift.run(**how, output=str(tmp_path / "out"))
    with pytest.raises(ExportFailed, match=r"what was tuned is left: -?\d+% of what tuning .* f32 .* keeps more"):
        export_stage(tmp_path / "out", "onnx", None, "int8")
    assert not list((tmp_path / "out" / "exports").glob("onnx*"))
