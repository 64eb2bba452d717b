"""A run exported, proved, and verified by somebody who has its files alone."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import exported
import task_battery
import tiny_models
import tunelift
from small_rows import write_rows
from tunelift.cli.export import command as export_command
from tunelift.cli.verify import command as verify_command
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.exporting import llama_cpp, stock, to_transformers
from tunelift.exporting import manifest as manifest_of
from tunelift.exporting.checking import ExportFailed
from tunelift.exporting.manifest import hashes
from tunelift.exporting.space import alone
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.verifying import verify

NO_EXTRAS = {"evaluate": {"baselines": [], "forgetting": []}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run for all: a Llama in a folder, three steps."""
    place = tmp_path_factory.mktemp("made")
    tiny_models.causal("llama").save_pretrained(place / "model")
    tiny_models.tokenizer().save_pretrained(place / "model")
    data = {"train": str(write_rows(place / "train.csv", 40)), "test": str(write_rows(place / "test.csv", 20, 100))}
    how = {"steps": 3, "learning_rate": 0.01}
    out = str(place / "out")
    tunelift.run(model=str(place / "model"), data=data, train=how, dtype="float32", output=out, **NO_EXTRAS)
    return place / "out"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let stock transformers answer in this process, which saves that of starting another."""

    def answer(program: list[str], request: dict[str, Any], lost: str) -> dict[str, Any]:
        asked, answered = tmp_path / "request.json", tmp_path / "answer.json"
        asked.write_text(json.dumps(request))
        stock.main(str(asked), str(answered))
        return dict(json.loads(answered.read_text()))

    monkeypatch.setattr(to_transformers, "answer_of", answer)


def said(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "export.json").read_text(encoding="utf-8")))


def test_a_merged_model_is_proved_in_a_new_process_and_a_stranger_finds_what_was_changed(run: Path) -> None:
    done = CliRunner().invoke(export_command, [str(run), "--to", "merged"], catch_exceptions=False)
    folder = run / "exports" / "merged"
    assert done.exit_code == 0 and f"Export: {folder} (proved" in done.output
    assert said(folder)["status"] == "proved" and said(folder)["proofs"][0]["passed"]
    assert AutoModelForCausalLM.from_pretrained(folder / "model").config.model_type == "llama"
    right, wrong = verify(run)
    assert not wrong and any("comparison.json follows" in one for one in right), wrong
    changes: dict[str, tuple[Path, Callable[[str], str]]] = {
        "exports/merged/model/config.json": (folder / "model" / "config.json", lambda text: text + " "),
        "the scores are": (
            folder / "proof" / "exported" / "scores.jsonl",
            lambda text: text.replace('"values": [-', '"values": [-1'),
        ),
        "comparison.json does not follow": (
            run / "comparison.json",
            lambda text: text.replace('"items": 20', '"items": 21'),
        ),
        "is another than the one that was measured": (
            run / "adapter" / "adapter_config.json",
            lambda text: text.replace('"r": 8', '"r": 4'),
        ),
    }
    for told, (file, change) in changes.items():
        before = file.read_text(encoding="utf-8")
        assert change(before) != before
        file.write_text(change(before), encoding="utf-8")
        found = CliRunner().invoke(verify_command, [str(run)], catch_exceptions=False)
        assert found.exit_code == 3 and told.removeprefix("exports/merged/") in found.output, found.output
        file.write_text(before, encoding="utf-8")
    (folder / "model" / "model.safetensors").unlink()
    assert "merged: model/model.safetensors is missing" in verify(run)[1]


def test_without_its_runtime_a_file_is_written_and_says_that_it_is_not_proved(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "is_there", lambda: False)
    for to in ("gguf", "lora-gguf"):
        folder = export_stage(run, to, run.parent / to)
        assert said(folder)["status"] == "not proved" and "tunelift[llama-cpp]" in said(folder)["reason"]
        assert (folder / "Modelfile").read_text(encoding="utf-8").startswith("FROM ")
        assert not verify(folder)[1] and "not proved" in verify(folder)[0][1]
        assert not (folder / ".scratch").exists()


def test_an_export_that_lost_the_adapter_is_not_kept(
    run: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_transformers.merging, "merged", lambda adapted: adapted.unload())
    with pytest.raises(ExportFailed, match="merged, it has the same scores"):
        export_stage(run, "merged", None)
    assert not list((run / "exports").iterdir())


def test_files_that_say_something_else_are_not_kept(
    run: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(model: Any, *others: Any) -> None:
        model.model.norm.weight.data.mul_(1.01)
        save(model, *others)

    save = to_transformers.save_model
    monkeypatch.setattr(to_transformers, "save_model", saved)
    with pytest.raises(ExportFailed, match="same scores"):
        export_stage(run, "merged", None)
    assert not list((run / "exports").iterdir())


def test_one_that_is_stopped_leaves_nothing_and_the_next_clears_what_a_killed_one_left(
    run: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = run / "exports" / ".merged.0123456789abcdef.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(to_transformers, "ask", stop)
        with pytest.raises(KeyboardInterrupt):
            export_stage(run, "merged", None)
    assert not list((run / "exports").iterdir())
    export_stage(run, "merged", None)
    with pytest.raises(InputError, match="there already"):
        export_stage(run, "merged", None)
    assert [path.name for path in (run / "exports").iterdir()] == ["merged"]


def test_what_cannot_be_is_said_before_anything_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        with pytest.raises(InputError, match="Make room"):
            export_stage(run, "gguf", None)
    for to, kind, why in (("merged", "q8_0", "written in f32"), ("lora-gguf", "f16", "small"), ("ollama", "f32", "no")):
        with pytest.raises(InputError, match=why):
            export_stage(run, to, None, kind)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("quantization: none", "quantization: nf4"), encoding="utf-8")
    with pytest.raises(InputError, match="nf4"):
        export_stage(run, "merged", None)
    assert not (run / "exports").exists() or not list((run / "exports").iterdir())


def test_a_classifier_and_a_model_tuned_whole_are_merged_models_too(
    tiny: dict[str, Any], tiny_encoder: dict[str, Any], in_process: None
) -> None:
    columns = {**tiny_encoder["data"], "text": "text", "label": "label"}
    tunelift.run(
        **(tiny_encoder | {"data": columns, "task": "sequence-classification", "output": "heads"}), **NO_EXTRAS
    )
    folder = export_stage("heads", "merged", None)
    assert said(folder)["status"] == "proved"
    assert AutoModelForSequenceClassification.from_pretrained(folder / "model").config.id2label == {
        **{0: "sports", 1: "tech"}
    }
    with pytest.raises(InputError, match="head"):
        export_stage("heads", "gguf", None)
    tunelift.run(**(tiny | {"output": "whole"}), adapter={"method": "full"}, **NO_EXTRAS)
    assert said(export_stage("whole", "merged", None))["status"] == "proved"
    with pytest.raises(InputError, match="no adapter"):
        export_stage("whole", "lora-gguf", None)


@pytest.mark.parametrize("task", ["preference", "question-answering"])
def test_each_task_is_asked_as_it_was_measured(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    """Of a preference the better answer is asked; questions are told from passages, which peft's own forward loses."""
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "lora"
    tunelift.run(**task_battery.prepared(task, tmp_path), output=str(out))
    folder = export_stage(out, "merged", None)
    assert said(folder)["status"] == "proved"
    rows = {row["id"]: row for row in Scores.read(folder / "proof" / "exported").rows}
    for row in Scores.read(out / "tuned").rows if task == "preference" else []:
        values = rows[row["id"]]["values"]
        assert len(values) == row["tokens"]
        assert sum(values) == pytest.approx(row["log_likelihood"], abs=1e-3)


def test_a_task_whose_models_are_asked_otherwise_is_refused_with_the_reason(run: Path) -> None:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    for task in ("multiple-choice", "sentence-embedding", "sequence-to-sequence", "masked-lm", "image-classification"):
        (run / "config.yaml").write_text(re.sub(r"(?m)^task: .*$", f"task: {task}", config), encoding="utf-8")
        with pytest.raises(InputError, match=f"task is {task}"):
            export_stage(run, "merged", None)


def test_a_folder_that_cannot_be_is_refused_before_anything_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for output, why in (
        (".", "there already"),
        ("/", "there already"),
        ("out/..", "there already"),
        (run, "there already"),
        ("file/below", "file is no folder"),
        (run / "adapter" / "merged", "run's own files"),
        ("out/tuned", "run's own files"),
    ):
        with pytest.raises(InputError, match=why):
            export_stage(run, "merged", output)
    assert not (run / "exports").exists() and not list(tmp_path.glob(".*"))


def test_what_another_process_is_writing_under_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    half = ".0123456789abcdef.part"
    (tmp_path / f".gguf{half}").mkdir()
    for name in (f".gguf.v2{half}", f".other{half}"):
        (tmp_path / name).mkdir()
    with alone(tmp_path / "gguf"), alone(tmp_path / "[a-z]*"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".gguf.v2{half}", f".other{half}"]


def test_one_that_is_killed_leaves_nothing_that_looks_like_an_export_and_the_next_is_whole(
    run: Path, in_process: None
) -> None:
    program = (
        "import os, signal, sys; from tunelift.exporting import to_transformers as to;"
        "from tunelift.pipeline.exporting import export_stage;"
        "to.ask = lambda *_: os.kill(os.getpid(), signal.SIGKILL); export_stage(sys.argv[1], 'merged', None)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in (run / "exports").iterdir()]
    assert any(name.endswith(".part") for name in left) and "merged" not in left
    assert not [one for one in verify(run)[0] if "merged" in one]
    export_stage(run, "merged", None)
    assert [path.name for path in (run / "exports").iterdir()] == ["merged"]


def told(folder: Path, **values: Any) -> None:
    (folder / "export.json").write_text(json.dumps(said(folder) | values), encoding="utf-8")


def numbers(folder: Path, side: str, change: Callable[[float], Any]) -> None:
    """Write the rows of another side, changed, as one that is hashed as all are."""
    found = Scores.read(folder / "proof" / ("base" if side == "base-there" else side))
    rows = [row | {"values": [change(value) for value in row["values"]]} for row in found.rows]
    Scores(rows, found.info).save(folder / "proof" / side)
    told(folder, files=hashes(folder))


def same(folder: Path) -> None:
    for side in ("merged", "exported", "base"):
        shutil.rmtree(folder / "proof" / side)
        shutil.copytree(folder / "proof" / "model", folder / "proof" / side)
    told(folder, files=hashes(folder))


CLAIMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no proof is told": (lambda folder: told(folder, proofs=[]), "no proof of the scores"),
    "a status of its own": (lambda folder: told(folder, status="surely"), "which is none"),
    "of another adapter": (lambda folder: told(folder, made_of={"tuned": {"sha256": "0"}}), "of another adapter/"),
    "a base that is far off": (lambda folder: numbers(folder, "base-there", lambda one: one - 9), "no rounding is"),
    "the base's own scores": (same, "tells them apart"),
    "numbers that are none": (lambda folder: numbers(folder, "exported", lambda one: [one]), "cannot be read"),
}


def test_a_claim_that_does_not_follow_is_named_though_every_hash_was_made_again(run: Path, in_process: None) -> None:
    folder = export_stage(run, "merged", None)
    for name, (change, why) in CLAIMS.items():
        shutil.copytree(folder, run / "kept")
        change(folder)
        found = verify(run)[1]
        assert found and any(why in one for one in found), (name, found)
        shutil.rmtree(folder)
        (run / "kept").rename(folder)
    assert not verify(run)[1]
    told(folder, files=[])
    with pytest.raises(InputError, match=r"export\.json has no files"):
        verify(run)


def test_an_export_alone_is_verified_by_the_command(run: Path, in_process: None) -> None:
    done = CliRunner().invoke(verify_command, [str(export_stage(run, "merged", None))], catch_exceptions=False)
    assert done.exit_code == 0 and "are the model's" in done.output
    assert "cannot be told" not in done.output


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a Llama of widths that blocks of 256 fit, in a folder with a blank in its name."""
    place = tmp_path_factory.mktemp("wide") / "of two words"
    return exported.run_of(exported.model("llama"), place)


def talks(path: Path, count: int, start: int = 0) -> Path:
    """Conversations of two turns, which end with an answer as all real ones do."""
    turns = ("user", "say {}"), ("assistant", "{} it is"), ("user", "and then?"), ("assistant", "then {} again")
    for number in range(start, start + count):
        row = {"messages": [{"role": role, "content": text.format(number)} for role, text in turns]}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize("to", ["merged", "gguf"])
def test_conversations_are_written_as_far_as_a_model_is_asked(to: str, tmp_path: Path, in_process: None) -> None:
    """llama.cpp takes a last answer as one to go on with, and does not close it: no fault of the file."""
    if to == "gguf":
        pytest.importorskip("xllamacpp", reason="an extra that CI lacks")
    run = exported.run_of(exported.model("llama"), tmp_path / "chat", rows=talks, kind="jsonl")
    found = said(export_stage(run, to, None))
    assert found["status"] == "proved" and "conversations are written alike" in str(found["proofs"])
    if to == "merged":
        asked = json.loads((tmp_path / "request.json").read_text())["messages"]
        assert [[one["role"] for one in talk] for talk in asked] == [["user", "assistant", "user"]] * 4


@pytest.mark.parametrize(
    ("to", "kind", "package"),
    [
        ("gguf", "q4_k_m", "cyllama"),
        ("gguf", "q8_0", "xllamacpp"),
        ("lora-gguf", "f32", "xllamacpp"),
        ("mlx", "f32", "mlx_lm"),
    ],
)
def test_a_run_is_proved_in_each_program_and_verified(to: str, kind: str, package: str, wide: Path) -> None:
    for needed in {package, "mlx" if to == "mlx" else "xllamacpp"}:
        pytest.importorskip(needed, reason="an extra that CI lacks")
    folder = export_stage(wide, to, None, kind)
    found = said(folder)
    assert found["status"] == "proved" and all(one["passed"] for one in found["proofs"]), found
    assert manifest_of.tolerance(folder) < 5e-5  # a width of 256 rounds a little more than one of 32
    right, wrong = verify(wide)
    assert not wrong and f"{folder.name}: the scores in {found['runtime']} are" in " ".join(right)
    if kind == "f32":
        return
    assert not found.get("fell_back") and any("verdict follows" in one for one in verify(folder)[0])
    loss = found["verdict"]["metrics"]["loss"]
    told(folder, verdict={"metrics": {"loss": loss | {"difference": 0.0}}})
    assert any("export.json does not follow" in one for one in verify(folder)[1])
    told(folder, verdict=found["verdict"])
