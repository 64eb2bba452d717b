"""Heads that loading made new: all of them are trained and saved, and stock peft gives the scores that were seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

import tiny_models
import tunelift
from tunelift.core.errors import InputError

ROWS = [{"text": f"row {i} {'good' if i % 2 else 'bad'}", "label": "ab"[i % 2]} for i in range(12)]
IDS = torch.tensor([[5, 6, 7, 8, 9]])

SMALL: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2},
    "deberta": {"pooler_hidden_size": 32},
}
NEW = {
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "distilbert": {"pre_classifier", "classifier"},
    "bert": {"bert.pooler.dense", "classifier"},
    "deberta": {"pooler.dense", "classifier"},
    "llama": {"score"},
    "gpt2": {"score"},
    "gemma3_text": {"score"},
}
DECODERS = {"llama", "gpt2", "gemma3_text"}


def without_head(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> Path:
    """Return the folder of a language model, whose files have no classification head."""
    sizes = tiny_models.SIZES | {"cls_token_id": 0, "sep_token_id": 1} | SMALL.get(kind, {})
    config = AutoConfig.for_model(kind, **sizes | tiny_models.ARCHITECTURES.get(kind, {}))
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if kind in DECODERS else AutoModelForMaskedLM
    auto.from_config(config).to(dtype).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def by_stock(adapter: Path, dtype: torch.dtype) -> torch.Tensor:
    """Return the logits of stock peft, which draws every part anew that neither base nor adapter has."""
    torch.manual_seed(99)
    model = AutoPeftModelForSequenceClassification.from_pretrained(adapter, num_labels=2, dtype=dtype)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


def whole(adapter: Path) -> set[str]:
    """Return the modules that an adapter's folder holds whole."""
    names = load_file(adapter / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").rpartition(".")[0] for name in names if "lora_" not in name}


CASES = [(kind, "float32") for kind in NEW] + [(kind, "bfloat16") for kind in ("bert", "llama")]


@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_what_is_new_is_trained_and_saved(kind: str, dtype: str, tmp_path: Path) -> None:
    """In bfloat16 too, whose small steps are taken in fp32: each part is moved further than its rounding."""
    base = without_head(tmp_path / "base", kind, getattr(torch, dtype))
    model, tokenizer = tunelift.load(str(base), task="sequence-classification", labels=["a", "b"], dtype=dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tuned = tunelift.tune(model, tokenizer, ROWS, output=tmp_path / "out", epochs=2, learning_rate=1e-3)
    adapter = tmp_path / "out" / "adapter"
    assert whole(adapter) == NEW[kind]
    saved = load_file(adapter / "adapter_model.safetensors")
    for part in NEW[kind]:
        weight = saved[f"base_model.model.{part}.weight"]
        assert not torch.equal(weight, before[f"{part}.weight"].to(weight.dtype)), part
    with torch.no_grad():
        memory = tuned.eval()(input_ids=IDS).logits
    assert torch.allclose(by_stock(adapter, getattr(torch, dtype)), memory, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "deberta"])
def test_parts_of_a_model_that_others_loaded_are_saved_as_if_new(kind: str, tmp_path: Path) -> None:
    base = without_head(tmp_path / "base", kind)
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "a", 1: "b"})
    tuned = tunelift.tune(model, tiny_models.tokenizer(), ROWS, output=tmp_path / "out", epochs=1)
    with torch.no_grad():
        memory = tuned.eval()(input_ids=IDS).logits
    assert torch.allclose(by_stock(tmp_path / "out" / "adapter", torch.float32), memory, atol=1e-5)


def test_an_adapter_that_would_lose_what_is_new_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = without_head(tmp_path / "base", "deberta")
    config = LoraConfig(target_modules=["in_proj"], task_type="SEQ_CLS")
    model, tokenizer = tunelift.load(str(base), task="sequence-classification", labels=["a", "b"], dtype="float32")
    with pytest.raises(InputError, match=r"does not train pooler\.dense, which the model's files lack"):
        tunelift.tune(get_peft_model(model, config), tokenizer, ROWS)
    stock = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "a", 1: "b"})
    tunelift.tune(get_peft_model(stock, config), tokenizer, ROWS, epochs=1)
    assert "pooler.dense are not saved with it, and must be in the base's files" in capsys.readouterr().err


def test_an_adapter_of_another_task_is_refused(tmp_path: Path) -> None:
    """peft would train and save no head with it."""
    model, tokenizer = tunelift.load(
        str(without_head(tmp_path, "bert")), task="sequence-classification", labels=["a", "b"], dtype="float32"
    )
    with pytest.raises(InputError, match="task_type is CAUSAL_LM, and the task is sequence-classification"):
        tunelift.tune(model, tokenizer, ROWS, adapter=LoraConfig(target_modules=["query"], task_type="CAUSAL_LM"))
