"""What continues text as ONNX: written by the builder of ONNX Runtime GenAI, and run by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import exported
import tiny_models
from tunelift.cli.export import command as export_command
from tunelift.core.errors import InputError
from tunelift.exporting import to_genai
from tunelift.exporting.checking import LEFT, ExportFailed
from tunelift.exporting.equality import equal
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.verifying import verify


@pytest.fixture(autouse=True)
def packages() -> None:
    for name in to_genai.NEEDED:
        pytest.importorskip(name, reason="an extra that CI lacks")


def run_of(kind: str, place: Path) -> Path:
    return exported.run_of(tiny_models.causal(kind, **exported.WIDE), place)


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
    _, _, tuned, there = exported.sides(folder)
    assert equal(tuned, there, 3e-5).holds, equal(tuned, there, 3e-5)
    assert not verify(run)[1]


def test_a_file_of_the_base_alone_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, build, bases = run_of("llama", tmp_path), to_genai.build, list[Path]()

    def of_the_base(made: Any, scratch: Path, folder: Path, kind: str = "f32") -> None:
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


MATRICES = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 256) + 400 * 256
"""Numbers of two layers' matrices (queries and outputs, keys and values, MLP) and of the head, of a Llama."""


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
def test_rounded_weights_are_counted_and_get_a_verdict(kind: str, bits: int, tmp_path: Path) -> None:
    run = run_of("llama", tmp_path)
    done = CliRunner().invoke(export_command, [str(run), "--to", "onnx", "--type", kind], catch_exceptions=False)
    assert done.exit_code == 0 and f"{MATRICES:,} numbers in {kind}" in done.output, done.output
    folder = run / "exports" / f"onnx-{kind}"
    said = json.loads((folder / "export.json").read_text())
    assert said["status"] == "proved" and {"accuracy", "loss"} <= said["verdict"]["metrics"].keys()
    assert [one["name"] for one in said["proofs"]][-2:] == ["rounded, it is told the same", LEFT]
    assert said["numbers"][kind] == MATRICES and said["tensors"][kind] == 11  # queries, keys and values are one
    assert said["numbers"]["f32"] >= 400 * 256  # embeddings are looked up as they are
    data = (folder / "model" / "model.onnx.data").stat().st_size
    assert MATRICES * bits / 8 < data - 400 * 256 * 4 < MATRICES * (bits + 2) / 8
    assert data < said["bytes"] < data + 200_000 and not (folder / ".scratch").exists()
    assert not verify(run)[1]


def test_a_rounded_folder_that_says_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, build, built = run_of("llama", tmp_path), to_genai.build, tmp_path / "built"

    def another_end(made: Any, scratch: Path, folder: Path, kind: str = "f32") -> None:
        if not built.exists():  # one is enough to see it
            build(made, scratch, built)
        shutil.copytree(built, folder)
        if kind == "int4":
            file = folder / "genai_config.json"
            said = json.loads(file.read_text())
            said["model"]["eos_token_id"] = 5
            file.write_text(json.dumps(said))

    monkeypatch.setattr(to_genai, "build", another_end)
    with pytest.raises(ExportFailed, match=r"rounded, it is told the same: genai_config\.json"):
        export_stage(run, "onnx", None, "int4")
    assert not list((run / "exports").glob("onnx*"))


def test_an_architecture_and_types_that_the_builder_does_not_write_are_refused(tmp_path: Path) -> None:
    run = run_of("gpt2", tmp_path)
    for kind in ("f32", "int4"):
        with pytest.raises(InputError, match=r"not write this GPT2LMHeadModel: NotImplementedError: The gpt2 model"):
            export_stage(run, "onnx", None, kind)
    for kind in ("f16", "q4_k_m"):
        with pytest.raises(InputError, match=rf"(?s)no export to onnx in {kind}.*types: f32, int8, int4"):
            export_stage(run, "onnx", None, kind)
