"""Heads as ONNX files, run by ONNX Runtime, and what their proof there catches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import task_battery
import tunelift
from tunelift.core.errors import TuneliftError
from tunelift.exporting import onnx_model, onnx_scores, to_onnx
from tunelift.exporting.checking import LEFT, ExportFailed
from tunelift.exporting.manifest import hashes
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.verifying import verify

HEADS = (
    "sequence-classification", "question-answering", "token-classification", "regression", "multi-label-classification",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of each task with a head, made when it is asked for."""

    class Runs(dict[str, Path]):
        def __missing__(self, task: str) -> Path:
            place = tmp_path_factory.mktemp(task)
            tunelift.run(**task_battery.prepared(task, place), output=str(place / "out"))
            self[task] = place / "out"
            return self[task]

    return Runs()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let ONNX Runtime answer in this process, which saves that of starting another."""
    for package in to_onnx.NEEDED:
        pytest.importorskip(package, reason="an extra that CI lacks")

    def answer(program: list[str], request: dict[str, Any], lost: str) -> dict[str, Any]:
        asked, answered = tmp_path / "request.json", tmp_path / "answer.json"
        asked.write_text(json.dumps(request))
        onnx_scores.main(str(asked), str(answered))
        return dict(json.loads(answered.read_text()))

    monkeypatch.setattr(to_onnx, "answer_of", answer)


@pytest.mark.parametrize("task", HEADS)
def test_each_head_is_proved_alone_and_in_a_padded_batch(
    task: str, runs: dict[str, Path], tmp_path: Path, in_process: None
) -> None:
    folder = export_stage(runs[task], "onnx", tmp_path / "made")
    said = json.loads((folder / "export.json").read_text())
    assert said["status"] == "proved" and said["runtime"].startswith("onnxruntime")
    rows = [json.loads(line) for line in (folder / "proof" / "exported" / "scores.jsonl").read_text().splitlines()]
    assert sum(row["id"].endswith(to_onnx.IN_A_BATCH) for row in rows) == len(rows) / 2 > 2
    assert (folder / "model" / "tokenizer.json").is_file() and not (folder / ".scratch").exists()
    assert not verify(folder)[1]


def test_rounded_weights_get_the_verdict_that_two_models_get(
    runs: dict[str, Path], tmp_path: Path, in_process: None
) -> None:
    folder = export_stage(runs["sequence-classification"], "onnx", tmp_path / "made", "int8")
    said = json.loads((folder / "export.json").read_text())
    assert {"accuracy", "loss"} <= said["verdict"]["metrics"].keys()
    assert not verify(folder)[1]
    own = json.loads((runs["sequence-classification"] / "tuned" / "metrics.json").read_text())["metrics"]["loss"]
    here = json.loads((folder / "proof" / "test" / "metrics.json").read_text())["metrics"]["loss"]
    assert here["value"] == pytest.approx(own["value"], abs=1e-4)  # measured as the run did
    assert said["numbers"]["int8"] > 10 * said["numbers"]["f32"] and said["tensors"].keys() == {"int8", "uint8", "f32"}
    assert LEFT in [one["name"] for one in said["proofs"]]
    for side in ("rounded", "base-rounded"):  # a stranger asks what rounding left, too
        shutil.rmtree(folder / "proof" / side)
        if side == "rounded":
            shutil.copytree(folder / "proof" / "base-rounded", folder / "proof" / side)
        said["files"] = hashes(folder)
        (folder / "export.json").write_text(json.dumps(said))
        why = f"{LEFT}: 0% of what" if side == "rounded" else "what rounding left of what was tuned are missing"
        assert any(why in one for one in verify(folder)[1]), verify(folder)


def test_a_file_of_other_weights_and_one_that_reads_padding_are_not_kept(
    runs: dict[str, Path], tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = onnx_model.write

    def another(file: Path, model: Any) -> None:
        if file.name == to_onnx.FILE:
            with torch.no_grad():
                model.classifier.bias.add_(0.01)
        write(file, model)

    with monkeypatch.context() as patched:
        patched.setattr(onnx_model, "write", another)
        with pytest.raises(ExportFailed, match="same scores"):
            export_stage(runs["sequence-classification"], "onnx", tmp_path / "made")
    forward = onnx_model.Asked.forward

    def blind(self: Any, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return forward(self, given[0], given[1] * 0 + 1, *given[2:])

    with monkeypatch.context() as patched:
        patched.setattr(onnx_model.Asked, "forward", blind)
        with pytest.raises(ExportFailed, match=f"the base runs there: .*{to_onnx.IN_A_BATCH}"):
            export_stage(runs["sequence-classification"], "onnx", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_continues_text_is_refused_with_where_it_goes_instead(tmp_path: Path, in_process: None) -> None:
    how = task_battery.prepared("causal-lm", tmp_path)
    tunelift.run(**how, output=str(tmp_path / "out"))
    # Without the extra it is refused at once; with it, the program that runs it takes no tokenizer of this kind.
    with pytest.raises(TuneliftError, match=r"--to gguf|Unsupported tokenizer class"):
        export_stage(tmp_path / "out", "onnx", None)
