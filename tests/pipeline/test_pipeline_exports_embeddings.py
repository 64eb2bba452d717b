"""A sentence model exported whole for sentence-transformers, and what its proof there catches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import task_battery
import tunelift
from tunelift.core.errors import InputError
from tunelift.exporting import sentence_vectors, to_sentence_transformers
from tunelift.exporting.checking import TOKENS, ExportFailed
from tunelift.model_facts.pooling import Pooling
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.verifying import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("embeddings")
    how = task_battery.prepared("sentence-embedding", place)
    tunelift.run(**how | {"train": {**how["train"], "max_length": 24}}, output=str(place / "out"))
    return place / "out"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let sentence-transformers answer in this process, which saves that of starting another."""
    pytest.importorskip("sentence_transformers", reason="an extra that CI lacks")

    def answer(program: list[str], request: dict[str, Any], lost: str) -> dict[str, Any]:
        asked, answered = tmp_path / "request.json", tmp_path / "answer.json"
        asked.write_text(json.dumps(request))
        sentence_vectors.main(str(asked), str(answered))
        return dict(json.loads(answered.read_text()))

    monkeypatch.setattr(to_sentence_transformers, "answer_of", answer)


def test_it_is_proved_there_and_cuts_texts_as_it_was_measured(run: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="an extra that CI lacks")
    folder = export_stage(run, "sentence-transformers", tmp_path / "made")
    said = json.loads((folder / "export.json").read_text())
    assert (said["status"], said["max_length"]) == ("proved", 24)
    assert [one["name"] for one in said["proofs"]][-2:] == ["same scores", TOKENS]
    read = library.SentenceTransformer(str(folder / "model"), device="cpu")
    assert read.max_seq_length == 24
    right, wrong = verify(folder)
    assert not wrong and any("sentence-transformers" in one for one in right)


def test_vectors_made_otherwise_and_texts_cut_elsewhere_are_not_kept(
    run: Path, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_to = Pooling.cut_to

    def by_the_first_token(self: Pooling, length: int) -> Pooling:
        made = cut_to(self, length)
        return replace(
            made,
            files=made.files
            | {"1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}},
        )

    for fault, caught in ((by_the_first_token, "same scores"), (lambda own, length: cut_to(own, length + 1), TOKENS)):
        with monkeypatch.context() as patched:
            patched.setattr(Pooling, "cut_to", fault)
            with pytest.raises(ExportFailed, match=caught):
                export_stage(run, "sentence-transformers", tmp_path / "made")
        assert not (tmp_path / "made").exists()


def test_without_the_library_it_says_so_and_other_tasks_and_exports_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_sentence_transformers, "PACKAGE", "no_such_package")
    said = json.loads((export_stage(run, "sentence-transformers", tmp_path / "made") / "export.json").read_text())
    assert said["status"] == "not proved" and "tunelift[embeddings]" in said["reason"]
    assert not verify(tmp_path / "made")[1]
    with pytest.raises(InputError, match="--to sentence-transformers"):
        export_stage(run, "merged", None)
    with pytest.raises(InputError, match="written in f32"):
        export_stage(run, "sentence-transformers", tmp_path / "other", "f16")
