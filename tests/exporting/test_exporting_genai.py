"""What continues text as ONNX: written by the builder of ONNX Runtime GenAI, and run by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import exported
import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.core.errors import InputError
from tunelift.exporting import to_genai
from tunelift.exporting.checking import ExportFailed
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.verifying import verify


@pytest.fixture(autouse=True)
def packages() -> None:
    for name in to_genai.NEEDED:
        pytest.importorskip(name, reason="an extra that CI lacks")


def run_of(kind: str, place: Path) -> Path:
    tiny_models.causal(kind).save_pretrained(place / "model")
    exported.tokenizer().save_pretrained(place / "model")
    data = {"train": str(write_rows(place / "train.csv", 40)), "test": str(write_rows(place / "test.csv", 20, 100))}
    tunelift.run(
        model=str(place / "model"),
        data=data,
        train={"steps": 3, "learning_rate": 0.01},
        dtype="float32",
        output=str(place / "out"),
        evaluate={"baselines": [], "forgetting": []},
    )
    return place / "out"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_it_gives_the_scores_with_its_cache_and_is_verified(kind: str, tmp_path: Path) -> None:
    run = run_of(kind, tmp_path)
    folder = export_stage(run, "onnx", None)
    said = json.loads((folder / "export.json").read_text())
    assert said["status"] == "proved" and said["runtime"].startswith("onnxruntime-genai"), said
    assert [one["name"] for one in said["proofs"]][:4] == [
        "the base runs there", "merged, it has the same scores", "same scores", "texts are cut alike",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["export.json", "model", "proof"]
    assert not verify(run)[1]


def test_a_file_of_the_base_alone_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, build, bases = run_of("llama", tmp_path), to_genai.build, list[Path]()

    def of_the_base(made: Any, scratch: Path, folder: Path) -> None:
        if bases:
            bases[0].rename(folder)
        else:
            build(made, scratch, folder)
            build(made, scratch, tmp_path / "base")
            bases.append(tmp_path / "base")

    monkeypatch.setattr(to_genai, "build", of_the_base)
    with pytest.raises(ExportFailed, match="same scores"):
        export_stage(run, "onnx", None)
    assert not list((run / "exports").glob("onnx*"))


def test_an_architecture_that_the_builder_does_not_know_is_refused_by_its_words(tmp_path: Path) -> None:
    run = run_of("gpt2", tmp_path)
    with pytest.raises(InputError, match=r"does not write this GPT2LMHeadModel: NotImplementedError: The gpt2 model"):
        export_stage(run, "onnx", None)
    with pytest.raises(InputError, match="written in f32"):
        export_stage(run, "onnx", None, "int8")
