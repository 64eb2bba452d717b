"""A base in int8 or int4, without any further package: loaded a tensor at a time, trained as its wide twin is."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from method_battery import acting
from small_rows import write_rows
from tunelift.adapters.methods import METHODS
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.fast.blocks import in_blocks, narrowed, widen, widened
from tunelift.fast.unpad import sped_up
from tunelift.models.precision import Precision
from tunelift.models.quantized import check
from tunelift.pipeline.choices import adapter_facts
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train

CAUSAL = TASKS.get("causal-lm")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def written(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    tiny_models.causal(kind, **changes).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return written(tmp_path / "base", hidden_size=96, intermediate_size=160)  # rows of a block and a half of int4


def opened(base: Path, kind: Any = "int4", dtype: Any = "float32") -> Session:
    return Session.open(ModelSection(name=str(base), dtype=dtype, quantization=kind), CAUSAL)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_in_blocks_is_its_wide_twin(base: Path, kind: Any, dtype: Any) -> None:
    model = opened(base, kind, dtype).model
    exact = Session.open(ModelSection(name=str(base), dtype=dtype), CAUSAL).model
    assert len(in_blocks(model)) == 3 * 7
    twin = deepcopy(model)
    widen(twin)
    assert not in_blocks(twin)
    expected = twin(IDS).logits
    far = 1e-4 if dtype == "float32" else 6e-2
    assert torch.allclose(model(IDS).logits, expected, atol=far)
    with sped_up(model, "both") as paths:
        assert paths["frozen_products"] == "on: 21 layers"
        assert torch.allclose(model(IDS).logits, expected, atol=far)
    name, layer = next(iter(in_blocks(model).items()))
    own = exact.get_submodule(name).weight.detach()
    lost = float((layer.blocks.wide().float() - own.float()).norm() / own.float().norm())
    assert 1e-3 < lost < (0.02 if kind == "int8" else 0.15)
    assert sum(p.nbytes for p in model.parameters()) < sum(p.nbytes for p in exact.parameters())


def test_weights_that_no_blocks_can_hold_are_refused(tmp_path: Path) -> None:
    model = tiny_models.causal("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e6
    model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"layers.1.mlp.up_proj.weight cannot be held in int8: .* larger than 65504"):
        opened(tmp_path, "int8")


def test_a_model_without_linear_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no linear layers of torch's own"):
        opened(written(tmp_path, "gpt2"))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_odd_rows_are_held(kind: str) -> None:
    for weight in (torch.zeros(3, 5), torch.full((1, 1), 2.5), torch.randn(4, 67), torch.full((2, 64), -0.125)):
        packed = narrowed(weight, kind)
        found = widened(packed, kind, weight.shape[1], torch.float32)
        step = float(weight.max() - weight.min()) / 15 if kind == "int4" else float(weight.abs().max()) / 127
        assert float((found - weight).abs().max()) <= 0.51 * step + 2e-3 * float(weight.abs().max())
    with pytest.raises(ValueError, match="numbers that are none"):
        narrowed(torch.tensor([[1.0, float("nan")]]), kind)


@pytest.mark.parametrize(("kind", "begins"), [("int8", True), ("int4", True), ("int4", "eva")])
def test_an_adapter_learns_as_on_the_wide_twin_and_comes_back(
    base: Path, tmp_path: Path, kind: Any, begins: Any
) -> None:
    rows = load_splits(
        DataSection(train=str(write_rows(tmp_path / "train.csv", 20))), reading=CAUSAL.reading, roles=("train",)
    ).train
    losses: dict[bool, list[float]] = {True: [], False: []}
    for narrow, told in losses.items():
        session = opened(base, kind)
        if not narrow:
            widen(session.model)
        settings = TrainSection(steps=4, learning_rate=1e-2, gradient_checkpointing=narrow and kind == "int8")
        session.will_train(rows, settings)
        session.attach({"r": 4, "init_lora_weights": begins}, 0)
        train(
            session.model, session.tokenizer, CAUSAL, {"train": rows}, settings,
            listeners=[lambda event, told=told, **facts: told.append(facts["loss"]) if event == "train" else None],
        )  # fmt: skip
        if narrow:
            folder = session.save_adapter(tmp_path / "adapter")
            expected = session.model.eval()(IDS).logits
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True][-1] < losses[True][0]
    assert adapter_facts(folder)["quantization"] == kind
    again = opened(base, kind)
    again.load_adapter(folder)
    assert torch.allclose(again.model(IDS).logits, expected, atol=1e-5)
    widen(again.model)
    merged = again.model.merge_and_unload()
    assert torch.allclose(merged(IDS).logits, expected, atol=1e-4)
    wide = Session.open(ModelSection(name=str(base), dtype="float32"), CAUSAL)
    assert any(f"trained on a base held in {kind}" in note for note in wide.examine(folder))


def test_a_whole_run_is_proved(base: Path, tmp_path: Path) -> None:
    for name, start in (("train", 0), ("test", 100)):
        write_rows(tmp_path / f"{name}.csv", 40, start=start)
    keys: dict[str, Any] = {
        "model": {"name": str(base), "dtype": "float32", "quantization": "int4"},
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 5, "learning_rate": 1e-2},
        "evaluate": {"baselines": ["majority"], "forgetting": []},
    }
    found = run(from_keywords("train", **keys, output=str(tmp_path / "out")))
    assert found.items == 40
    cost = found.to_dict()["quantising"]["loss"]
    assert cost["items"] == 40 and cost["base"] != cost["tuned"] == found.to_dict()["metrics"]["loss"]["base"]
    assert "loss" in str(found) and "in full precision" in str(found)
    for report in ("report.md", "report.html"):
        assert "What holding the base in few bits changed" in (tmp_path / "out" / report).read_text()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["proofs"] and all(proof["passed"] for proof in manifest["proofs"])


def test_methods_that_read_no_weights_act_as_on_the_wide_twin_and_others_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, num_hidden_layers=1, hidden_size=64, num_attention_heads=4)
    loaded = opened(folder).model
    able = [name for name in METHODS if not METHODS.get(name).reads_weights]
    assert {"lora", "ia3", "oft"} <= {*able}
    for name in able:
        found = []
        for wide in (False, True):
            session = Session.of(deepcopy(loaded), tiny_models.tokenizer(), CAUSAL)
            if wide:
                widen(session.model)
            found.append(acting(session, name)(IDS).logits)
        assert torch.allclose(*found, atol=1e-4), name
    refused = [{"method": "loha"}, {"method": "hira"}, {"use_dora": True}]
    refused += [{"init_lora_weights": how} for how in ("pissa", "corda", "lora_ga")]
    for keys in refused:
        with pytest.raises(InputError, match=r"the base is held in few bits(.|\n)*take one of: lora, ia3"):
            Session.of(loaded, tiny_models.tokenizer(), CAUSAL).check(keys)
    with pytest.raises(InputError, match="weights are quantised"):
        Session.of(loaded, tiny_models.tokenizer(), CAUSAL).check({"method": "full"})


def test_other_models_than_causal_ones_are_refused(base: Path) -> None:
    with pytest.raises(InputError, match="causal language models alone, not for the task masked-lm"):
        check("int8", Precision(torch.device("cpu"), torch.float32, ""), TASKS.get("masked-lm"), None, base)
