"""Exports in llama.cpp itself, and faults of the kinds that are made in silence: each is caught, and by what."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer

import exported
import tiny_models
from exported import KINDS, ROUNDED
from tunelift.core.errors import InputError, TuneliftError
from tunelift.exporting import checking, gguf_file, gguf_lora, llama_cpp, manifest
from tunelift.exporting.checking import ENDS, FILE, LEFT, SCORES, TEMPLATE, TOKENS, Asked
from tunelift.exporting.equality import FLOOR, equal, tolerance_of
from tunelift.exporting.to_gguf import check_gguf, says, to_gguf, to_lora_gguf
from tunelift.models.architectures import Turn

pytest.importorskip("xllamacpp", reason="exports run in llama.cpp where the extra llama-cpp is installed")


def near(kind: str, folder: Path) -> None:
    """Hold an export to 2e-5 nats of what peft gives; of GELU by a table, to four times what the base is apart."""
    base, there, tuned, exported_as = exported.sides(folder)
    found = equal(base, there, FLOOR)
    assert found.holds != (kind in ROUNDED) and found.largest < 2e-3, found
    allowed = tolerance_of(found) if kind in ROUNDED else FLOOR
    assert equal(tuned, exported_as, allowed).holds, equal(tuned, exported_as, allowed)
    assert equal(base, tuned, 0).largest > 100 * allowed


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_on_each_architecture_acts_there_as_in_peft(kind: str, tmp_path: Path) -> None:
    to_lora_gguf(*exported.made(exported.lora(exported.model(kind), kind)), tmp_path, "f32")
    near(kind, tmp_path)
    if kind in exported.TIED:
        with pytest.raises(InputError, match="both are one tensor"):
            gguf_lora.check_lora(exported.lora(exported.model(kind), kind, ends=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_of_each_architecture_is_the_same_there_and_judged_in_k_quants(
    kind: str, tmp_path: Path
) -> None:
    """Head and embeddings are changed too: where they were tied they are two, for which Gemma 2 has no place there."""
    pytest.importorskip("cyllama", reason="K-quants are made where the extra k-quants is installed")
    made, rows = exported.made(exported.lora(exported.model(kind), kind, ends=True))
    if kind == "gemma2":
        with pytest.raises(InputError, match=r"lm_head has no name in llama\.cpp's gemma2"):
            check_gguf(made, "q4_k_m")
        made, rows = exported.made(exported.lora(exported.model(kind), kind))
    to_gguf(made, rows, tmp_path, "q4_k_m")
    near(kind, tmp_path)
    said = json.loads((tmp_path / "export.json").read_text())
    assert said["status"] == "proved" and LEFT in [one["name"] for one in said["proofs"]]
    assert said["fell_back"] == {} and said["tensors"].keys() <= {"f32", "q4_k", "q5_k", "q6_k"}, said["tensors"]
    assert said["tensors"]["q4_k"] >= 7 and said["tensors"]["q6_k"]
    assert said["verdict"]["metrics"]["loss"]["items"] == 6
    assert not manifest.again(tmp_path)


def test_head_and_embeddings_that_were_tied_are_two_once_an_adapter_is_merged_into_one(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["lm_head", "q_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(exported.model("llama", tie_word_embeddings=True), config).eval()
    to_gguf(*exported.made(adapted), tmp_path, "f32")
    near("llama", tmp_path)


def proof(file: Path, right: Any, asked: Asked, lora: Path | None = None, allowed: float = FLOOR) -> set[str]:
    """Return the names of the checks that fail."""
    made = Made(exported.tokenizer(template=OWN))
    answer = llama_cpp.ask(file, asked.items, lora=lora, **asked.request)
    checks = [*checking.compared(asked, answer, right, allowed), says(file, made)]  # type: ignore[arg-type]
    return {one["name"] for one in checks if not one["passed"]}


class Made:
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


OWN = exported.CHAT.replace("<|im_start|>", "<|im_start|>to ")
"""A template that is none of those that llama.cpp takes where a file has none."""


def asked_of_all() -> Asked:
    tokenizer, message = exported.tokenizer(template=OWN), [{"role": "user", "content": "the cat"}]
    last = exported.items((4,))[0]
    items, text = (
        [*exported.items(), replace(last, name="turn", ids=(*last.ids[:-1], END))],
        "the cat  sat \u00fcber 12",
    )
    written = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    texts = [(text, list(tokenizer(text).input_ids))]
    return Asked(items, texts, [(message, written)], [item.name for item in items])


MERGES = [" ".join(merge) for merge in json.loads(exported.tokenizer().backend_tokenizer.to_str())["model"]["merges"]]
END = 7
"""A token that ends answers here and whose name tells nobody so."""


TOLD: dict[str, Any] = {"tokenizer.chat_template": OWN, "tokenizer.ggml.eot_token_id": END}


def not_turned(name: str, weights: Any) -> Any:
    if ".attn_q." in name or ".attn_k." in name:
        heads = exported.WIDE["num_attention_heads" if "_q" in name else "num_key_value_heads"]
        return weights.reshape(heads, -1, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
    return weights


FAULTS: dict[str, tuple[str, Callable[[str, Any], Any] | None, dict[str, Any], set[str]]] = {
    "none": ("llama", None, {}, set()),
    "queries and keys not turned": ("llama", not_turned, {}, {SCORES}),
    "a norm left as it was": ("gemma3_text", lambda n, w: w - 1 if n == "output_norm.weight" else w, {}, {SCORES}),
    "another end": ("llama", None, {"tokenizer.ggml.eos_token_id": 5}, {FILE}),  # it knows "</s>" by its name
    "an end of turns that is not told": ("llama", None, {"tokenizer.ggml.eot_token_id": None}, {ENDS}),
    "no template": ("llama", None, {"tokenizer.chat_template": None}, {TEMPLATE, FILE}),
    "no beginning": ("llama", None, {"tokenizer.ggml.add_bos_token": False}, {TOKENS}),
    "merges in another order": ("llama", None, {"tokenizer.ggml.merges": MERGES[::-1]}, {TOKENS}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_model_is_caught_by(fault: str, tmp_path: Path) -> None:
    kind, change, values, caught = FAULTS[fault]
    model, asked = exported.model(kind), asked_of_all()
    right = exported.scores(model, list(asked.items))
    allowed = FLOOR
    if kind in ROUNDED:
        there = llama_cpp.ask(exported.write_base(tmp_path / "base.gguf", model), asked.items)["scores"]
        allowed = tolerance_of(equal(right, there, FLOOR))
    file = exported.write_base(tmp_path / "model.gguf", model, change, **{**TOLD, **values})
    assert proof(file, right, asked, allowed=allowed) == caught


def test_a_norm_that_is_missing_is_told_by_llama_cpp(tmp_path: Path) -> None:
    model = exported.model("llama")
    lost = exported.write_base(tmp_path / "m.gguf", model, lambda n, w: None if n == "blk.1.ffn_norm.weight" else w)
    with pytest.raises(TuneliftError, match=r"blk\.1\.ffn_norm"):
        llama_cpp.ask(lost, exported.items())


@pytest.mark.parametrize("fault", ["none", "scale lost", "not turned", "of another base", "a layer left out"])
def test_a_fault_in_an_adapter_is_caught_by_the_scores(fault: str, tmp_path: Path) -> None:
    model = exported.model("llama")
    file = exported.write_base(tmp_path / "base.gguf", model, **TOLD)
    adapted = tiny_models.adapted(model, lora_alpha=7, use_rslora=True)
    asked = asked_of_all()
    right = exported.scores(adapted, list(asked.items))
    layers = [layer for layer in adapted.get_base_model().modules() if isinstance(layer, LoraLayer)]
    if fault == "scale lost":
        for layer in layers:
            layer.scaling["default"] = 7 / 4  # as if it were no rsLoRA
    if fault == "a layer left out":
        with torch.no_grad():
            layers[3].lora_B["default"].weight.zero_()
    if fault == "of another base":
        other = exported.model("llama", seed=1)
        file = exported.write_base(tmp_path / "other.gguf", other, **TOLD)
    write(tmp_path / "adapter.gguf", adapted, fault == "not turned")
    assert proof(file, right, asked, tmp_path / "adapter.gguf") == (set() if fault == "none" else {SCORES})


def write(file: Path, adapted: Any, plain: bool) -> None:
    """Write an adapter; `plain` as its factors are, though the base's rows change places."""
    if not plain:
        gguf_lora.write_lora(file, adapted, "tiny", "f32")
        return
    layout = replace(gguf_lora.Layout.of(adapted.config), turn=Turn())
    tensors = list(gguf_lora._tensors(adapted, layout))
    said = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    gguf_file.write(file, said | {"adapter.lora.alpha": 0.0}, lambda: iter(tensors), "f32")


def test_what_is_a_part_of_a_letter_has_its_log_probability_too(tmp_path: Path) -> None:
    model, tokenizer = exported.model("qwen2"), exported.tokenizer()
    ids = tuple(tokenizer("\u00fc\u732b").input_ids)
    item = exported.Item("letters", ids, tuple(range(1, len(ids))))
    there = llama_cpp.ask(exported.write_base(tmp_path / "m.gguf", model), [item])["scores"]
    assert len(ids) > 4 and equal(exported.scores(model, [item]), there, FLOOR).holds
    assert np.isfinite(there["letters"]).all()
