"""New tokens: the tokenizer has them, embeddings grow, the base keeps its vocabulary, and stock peft reads it all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import tiny_models
from method_battery import OTHERS
from small_rows import write_rows
from tunelift.adapters.build import check_keys
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.pipeline.run import run
from tunelift.pipeline.served import Limits, Source, ready
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train

CAUSAL = TASKS.get("causal-lm")
TOKENS = ["ball", "<|tool|>"]
KEYS: dict[str, Any] = {"new_tokens": TOKENS, "r": 4, "target_modules": ["q_proj", "v_proj"]}
SETTINGS = TrainSection(steps=3, batch_size=24, learning_rate=1e-2, products="float32")
IDS = [5, 6, 7, 8, 9]
STOCK = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base, folder, ids = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if len(tokenizer) > len(model.get_input_embeddings().weight):
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, folder).eval()
assert not [name for name in sys.modules if name.startswith("tunelift")]
with torch.no_grad():
    print(json.dumps([tokenizer("a <|tool|>").input_ids, model(torch.tensor([json.loads(ids)])).logits.tolist()]))
"""


def written(folder: Path, kind: str = "llama", rows: int = 0, **changes: Any) -> Path:
    """Write a base whose embeddings have no more rows than its tokenizer has tokens, or some `rows` more."""
    tokenizer = tiny_models.tokenizer()
    sizes = {**OTHERS.get(kind, {}), **changes, "vocab_size": len(tokenizer) + rows}
    tiny_models.causal(kind, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opened(base: Path) -> Session:
    session = Session.open(ModelSection(name=str(base), dtype="float32"), CAUSAL)
    session.model.requires_grad_(False)  # with which torch's convolutions round otherwise
    return session


@torch.no_grad()
def logits(model: Any, ids: Any = None) -> torch.Tensor:
    found: torch.Tensor = model.eval()(torch.tensor([ids or IDS])).logits
    return found


def learned(folder: Path, session: Session, keys: dict[str, Any]) -> Session:
    source = write_rows(folder / "train.csv", 24)
    rows = load_splits(DataSection(train=str(source)), reading=CAUSAL.reading, roles=("train",)).train
    session.will_train(rows, SETTINGS)
    assert session.check(keys).saved > 0
    session.attach(keys, 0)
    train(session.model, session.tokenizer, CAUSAL, {"train": rows}, SETTINGS)
    return session


@pytest.mark.parametrize(
    ("kind", "spare", "keys"),
    [
        ("llama", 0, KEYS),  # whose head is a matrix of its own
        ("llama", 5, KEYS),  # whose embeddings have room
        ("gemma3_text", 0, KEYS),
    ],
)
def test_stock_peft_reads_them_in_a_new_process(kind: str, spare: int, keys: dict[str, Any], tmp_path: Path) -> None:
    base, folder, session = trained(kind, spare, keys, tmp_path)
    ids = [*IDS, len(session.tokenizer) - 2, len(session.tokenizer) - 1]
    command = [sys.executable, "-c", STOCK, str(base), str(folder), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    asked, found = json.loads(done.stdout.splitlines()[-1])
    assert asked == session.tokenizer("a <|tool|>").input_ids and ids[-1] in asked
    assert torch.allclose(torch.tensor(found), logits(session.model, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "spare", "keys"),
    [
        ("gpt2", 0, KEYS | {"target_modules": ["c_attn"]}),
        ("mamba", 0, KEYS | {"target_modules": ["in_proj"]}),
        ("qwen3_moe", 0, KEYS | {"init_lora_weights": "lora_ga"}),
        ("llama", 0, {"method": "trainable-tokens", "new_tokens": TOKENS, "token_indices": [7]}),
        ("gemma3_text", 0, {"method": "trainable-tokens", "new_tokens": TOKENS}),
        ("llama", 3, KEYS | {"method": "adalora", "init_r": 4, "target_r": 2}),
    ],
)
def test_other_models_and_methods_have_them(kind: str, spare: int, keys: dict[str, Any], tmp_path: Path) -> None:
    base, folder, session = trained(kind, spare, keys, tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if spare == 0:
        stock.resize_token_embeddings(len(session.tokenizer))
    ids = [*IDS, len(session.tokenizer) - 2, len(session.tokenizer) - 1]
    found = logits(PeftModel.from_pretrained(stock, folder), ids)
    assert torch.allclose(found, logits(session.model, ids), atol=1e-5, rtol=1e-5)


def trained(kind: str, spare: int, keys: dict[str, Any], tmp_path: Path) -> tuple[Path, Path, Session]:
    """Return a base, an adapter that was trained on it, and the session, once the base is seen to be as it was."""
    base = written(tmp_path / "base", kind, spare)
    session = opened(base)
    before, own = logits(session.model), len(session.tokenizer)
    learned(tmp_path, session, keys)
    assert session.tokenizer.convert_tokens_to_ids(TOKENS) == [own, own + 1]
    assert len(session.base_tokenizer) == own
    ids = [*IDS, own, own + 1]
    with session.base():
        assert torch.equal(logits(session.model), before)
        assert session.model.config.get_text_config().vocab_size == before.shape[-1]
    assert logits(session.model).shape[-1] == max(own + len(TOKENS), own + spare)

    folder, wanted = session.save_adapter(tmp_path / "adapter"), logits(session.model, ids)
    for trainable in (False, True):
        again = opened(base)
        again.load_adapter(folder, trainable=trainable)
        assert torch.equal(logits(again.model, ids), wanted)
        assert again.tokenizer.convert_tokens_to_ids(TOKENS) == [own, own + 1]
        with again.base():
            assert torch.equal(logits(again.model), before)
    return base, folder, session


def test_a_token_begins_as_the_mean_of_its_pieces(tmp_path: Path) -> None:
    session = opened(written(tmp_path / "base"))
    session.attach(KEYS, 0)
    pieces = session.base_tokenizer("<|tool|>", add_special_tokens=False).input_ids
    assert len(pieces) > 1
    (index,) = session.tokenizer("<|tool|>", add_special_tokens=False).input_ids
    for layer in (session.model.get_input_embeddings(), session.model.get_output_embeddings()):
        rows = layer.token_adapter.get_merged_weights(["default"])
        assert torch.allclose(rows[index], layer.weight[pieces].mean(dim=0), atol=1e-6)
    assert "<|tool|>" not in session.tokenizer.all_special_tokens  # or answers would lose it


def test_a_whole_run_has_them_and_goes_on(tmp_path: Path) -> None:
    base = written(tmp_path / "base")
    for name, start in (("train", 0), ("test", 100)):
        write_rows(tmp_path / f"{name}.csv", 40, start=start)
    keys: dict[str, Any] = {
        "model": {"name": str(base), "dtype": "float32"},
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 5, "learning_rate": 1e-2},
        "evaluate": {"baselines": ["few-shot"], "forgetting": []},
    }
    out = tmp_path / "out"
    found = run(from_keywords("train", **keys, adapter=KEYS, output=str(out)))
    assert found.items == 40
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["proofs"] and all(proof["passed"] for proof in manifest["proofs"])
    assert manifest["adapter"]["config"]["new_tokens"] == TOKENS
    assert json.loads((out / "adapter" / "tunelift.json").read_text())["vocabulary"] == len(tiny_models.tokenizer()) + 2
    again = run(from_keywords("train", **keys, adapter={"start_from": str(out / "adapter")}, output=str(out) + "-2"))
    assert again.items == 40
    with (
        pytest.raises(InputError, match="brings tokens of its own"),
        ready(ModelSection(name=str(base), dtype="float32"), [Source("one", out / "adapter", None)], Limits()),
    ):
        pass


def test_a_head_takes_them_too(tmp_path: Path) -> None:
    task = TASKS.get("sequence-classification")
    tiny_models.classifier(["a", "b"], vocab_size=len(tiny_models.tokenizer())).base_model.save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    session = Session.open(ModelSection(name=str(tmp_path), dtype="float32"), task, ["a", "b"])
    before = logits(session.model)
    keys = {"new_tokens": TOKENS, "r": 4, "target_modules": ["query"]}
    assert session.check(keys).saved > 0
    session.attach(keys, 0)
    with session.base():
        assert torch.equal(logits(session.model), before)
    own = len(session.base_tokenizer)
    assert not torch.equal(logits(session.model, [*IDS, own]), logits(session.model, [*IDS, own + 1]))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"new_tokens": []}, "it is a list of texts"),
        ({"new_tokens": ["a", "a"]}, "'a' stands there twice"),
        ({"method": "ia3", "new_tokens": ["a"]}, "IA3 trains no rows of the embeddings; take one of lora, adalora"),
        ({"method": "full", "new_tokens": ["a"]}, "full fine-tuning trains no rows"),
        ({"new_tokens": ["a"], "trainable_token_indices": [3]}, "it sets trainable_token_indices"),
        ({"new_tokens": ["a"], "start_from": "there"}, "it cannot be set, since adapter.start_from brings its own"),
    ],
)
def test_settings_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    (problem,) = check_keys(keys)
    assert f"adapter.new_tokens: {said}" in problem


def test_tokens_that_cannot_be_are_refused(tmp_path: Path) -> None:
    session = opened(written(tmp_path / "base"))
    with pytest.raises(InputError, match=r"'<\|im_start\|>' is a token already \(id 2\)"):
        session.check({"new_tokens": ["<|im_start|>"]})
    with pytest.raises(InputError, match=r"adapter\.modules_to_save all of it"):
        session.check({"new_tokens": ["<new>"], "modules_to_save": ["embed_tokens"]})
    with pytest.raises(InputError, match=r"lm_head has a bias, which peft 0\.21 leaves out"):
        opened(written(tmp_path / "phi", "phi")).check({"new_tokens": ["<new>"], "target_modules": ["q_proj"]})
    with pytest.raises(InputError, match="eva does not go with tokens that are trained"):
        session.check(KEYS | {"init_lora_weights": "eva"})
    session.task = TASKS.get("preference")
    with pytest.raises(InputError, match="the reference has no rows for them"):
        session.check({"new_tokens": ["<new>"]})
