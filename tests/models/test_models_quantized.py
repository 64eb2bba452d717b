"""A base in four bits: refused where it cannot be right, and else trained and measured as bitsandbytes computes it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from small_rows import write_rows
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.fast import kernels
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.parameters import bit_sums
from tunelift.pipeline.choices import adapter_facts
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train

CAUSAL = TASKS.get("causal-lm")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantized is not installed"
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return written(tmp_path / "base")


def written(folder: Path, heads: int = 4) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": heads}
    tiny_models.causal("llama", **sizes).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def opened(base: Path, dtype: Any = "float32") -> Session:
    return Session.open(ModelSection(name=str(base), dtype=dtype, quantization="nf4"), CAUSAL)


def test_without_bitsandbytes_it_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bitsandbytes is not installed(.|\n)*tunelift\[quantized\]"):
        opened(base)


def test_a_head_cannot_be_drawn_in_four_bits(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="puts a new head on the model"):
        Session.open(ModelSection(name=str(base), quantization="nf4"), TASKS.get("sequence-classification"), ["a", "b"])


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_those_of_bitsandbytes(base: Path, dtype: Any) -> None:
    model = opened(base, dtype).model
    plain = model(IDS).logits
    with sped_up(model, "forward") as paths:
        assert paths["frozen_products"].startswith("on")
        found = model(IDS).logits
    assert torch.allclose(found, plain, atol=1e-4 if dtype == "float32" else 6e-2)


@needs_bitsandbytes
def test_rows_of_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"o_proj has rows of 32 numbers, .* whole blocks of 64"):
        opened(written(tmp_path / "narrow", heads=2))


@needs_bitsandbytes
def test_evaluating_changes_no_weight(base: Path) -> None:
    session = opened(base, "bfloat16")
    before = [bit_sums(p) for p in session.model.parameters()]
    with torch.no_grad():
        first = session.model.eval()(IDS).logits
    assert [bit_sums(p) for p in session.model.parameters()] == before
    assert torch.equal(session.model.train()(IDS).logits, first)


@needs_bitsandbytes
def test_an_adapter_learns_as_in_plain_layers_and_comes_back(base: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "train.csv", 20)
    rows = load_splits(DataSection(train=str(source)), reading=CAUSAL.reading, roles=("train",)).train
    losses: dict[bool, list[float]] = {True: [], False: []}
    for fast, told in losses.items():
        session = opened(base)
        session.attach({"r": 4}, 0)
        with kernels.without() if not fast else torch.enable_grad():
            train(
                session.model, session.tokenizer, CAUSAL, {"train": rows}, TrainSection(steps=3, learning_rate=1e-2),
                listeners=[lambda event, told=told, **facts: told.append(facts["loss"]) if event == "train" else None],
            )  # fmt: skip
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    folder = session.save_adapter(tmp_path / "adapter")
    assert adapter_facts(folder)["quantization"] == "nf4"
    expected = session.model.eval()(IDS).logits
    again = opened(base)
    again.load_adapter(folder)
    assert torch.allclose(again.model(IDS).logits, expected, atol=1e-5)
    wide = Session.open(ModelSection(name=str(base), dtype="float32"), CAUSAL)
    assert any("trained on a base held in nf4" in note for note in wide.examine(folder))


@needs_bitsandbytes
def test_a_whole_run_is_proved(base: Path, tmp_path: Path) -> None:
    for name, start in (("train", 0), ("test", 100)):
        write_rows(tmp_path / f"{name}.csv", 40, start=start)
    keys: dict[str, Any] = {
        "model": {"name": str(base), "dtype": "float32", "quantization": "nf4"},
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 5, "learning_rate": 1e-2},
        "evaluate": {"baselines": ["majority"], "forgetting": []},
    }
    assert run(from_keywords("train", **keys, output=str(tmp_path / "out"))).to_dict()["items"] == 40
    proofs = json.loads((tmp_path / "out" / "manifest.json").read_text())["proofs"]
    assert proofs and all(proof["passed"] for proof in proofs)
