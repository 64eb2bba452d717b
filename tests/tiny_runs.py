"""A tiny model in a folder and small files of rows, for whole runs in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizerFast

import tiny_models
from small_rows import WORDS, write_rows


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the keywords of a small run: a Llama in a folder, 40 training and 20 test rows, three steps."""
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny_models.causal("llama").save_pretrained(tmp_path / "model")
    tiny_models.tokenizer().save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "train.csv", 40)
    write_rows(tmp_path / "test.csv", 20, start=100)
    return {
        "model": str(tmp_path / "model"),
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 3, "learning_rate": 0.01},
        "dtype": "float32",
        "output": str(tmp_path / "out"),
    }


@pytest.fixture
def tiny_encoder(tmp_path: Path, tiny: dict[str, Any]) -> dict[str, Any]:
    """Return the same with an encoder without a head."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *sorted({w for some in WORDS.values() for w in some})]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tiny_models.classifier(["a", "b"]).base_model.save_pretrained(tmp_path / "encoder")
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "encoder")
    return tiny | {"model": str(tmp_path / "encoder")}
