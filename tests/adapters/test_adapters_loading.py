"""Strangers' adapters: every tensor has its place or the adapter is refused, before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_models
from tunelift.adapters.build import attach, peft_config
from tunelift.adapters.loading import check_fits, load_adapter
from tunelift.core.errors import InputError

Tensors = dict[str, Tensor]
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def made(folder: Path, kind: str = "llama", changes: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Return the folder of an adapter as peft saves it, made on a tiny model with these changes."""
    options = {"target_modules": "all-linear", "r": 4, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(tiny_models.causal(kind, **(changes or {})), LoraConfig(init_lora_weights=False, **options))
    model.save_pretrained(folder)
    return folder


def changed(folder: Path, **settings: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def with_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    file = folder / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(change(tensors), file)
    return folder


def of_a_vision_tower(tensors: Tensors) -> Tensors:
    tower = "base_model.model.vision_tower.layers.0.q_proj"
    return tensors | {f"{tower}.lora_A.weight": torch.ones(4, 32), f"{tower}.lora_B.weight": torch.ones(32, 4)}


def with_trained_embeddings(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.embed_tokens.weight": torch.ones(400, 32)}


NO_PLACE = {
    "a deeper model": lambda f: made(f, changes={"num_hidden_layers": 5}),
    "DoRA's magnitudes": lambda f: changed(made(f, use_dora=True), use_dora=False),
    "a vision tower": lambda f: with_tensors(made(f), of_a_vision_tower),
    "biases of B": lambda f: changed(made(f, lora_bias=True, changes={"attention_bias": True}), lora_bias=False),
}


@pytest.mark.parametrize("case", NO_PLACE)
def test_tensors_without_a_place_are_refused(case: str, tmp_path: Path) -> None:
    folder = NO_PLACE[case](tmp_path / "adapter")
    with pytest.raises(InputError, match=r"holds base_model\.model\..* for which this model has no place"):
        check_fits(tiny_models.causal("llama"), folder, None)


def test_split_projections_on_fused_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"self_attn\.k_proj.* for which this model has no place"):
        check_fits(tiny_models.causal("phi3"), made(tmp_path), None)


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    """As adapters called "0" are saved, without their layers."""
    with_tensors(made(tmp_path), lambda tensors: {k: t for k, t in tensors.items() if not k.startswith(f"{LAYER}.")})
    with pytest.raises(InputError, match="does not fit this model: Found missing adapter keys"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)


def test_trained_embeddings_do_not_change_the_base(tmp_path: Path) -> None:
    folder = with_tensors(made(tmp_path), with_trained_embeddings)
    with pytest.raises(InputError, match=r"writes over the base's own model\.embed_tokens\.weight"):
        check_fits(tiny_models.causal("llama"), folder, None)
    base = tiny_models.causal("llama")
    own = base.model.embed_tokens.weight.detach()
    with_tensors(folder, lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": own})
    assert check_fits(base, folder, None) == []  # saved along, as they were


FITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens"]},
    "on embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "trainable tokens": {"trainable_token_indices": [3, 4]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "biases": {"bias": "all"},
}


@pytest.mark.parametrize("case", FITS)
def test_adapters_of_peft_are_what_stock_makes_of_them(case: str, tmp_path: Path) -> None:
    folder = made(tmp_path, **FITS[case])
    base = tiny_models.causal("llama")
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    assert len(check_fits(base, folder, None)) == (case == "biases")
    assert all(torch.equal(before[name], parameter) for name, parameter in base.named_parameters())
    stock = PeftModel.from_pretrained(tiny_models.causal("llama"), folder).eval()
    assert torch.equal(load_adapter(base, folder, None)(IDS).logits, stock(IDS).logits)


LATER = {"peft_version": "0.99.0", "use_frobnication": True, "frobnication_rank": 7, "unused_key": None}


def test_settings_of_a_later_peft_are_said(tmp_path: Path) -> None:
    (note,) = check_fits(tiny_models.causal("llama"), changed(made(tmp_path), **LATER), None)
    assert "made by peft 0.99.0 has settings that peft" in note
    assert note.endswith("leaves out: frobnication_rank, use_frobnication")


@pytest.mark.parametrize(("made_on", "said"), [("meta-llama/Tiny", False), ("/home/me/tiny/", False), ("other", True)])
def test_a_base_of_another_name_is_said(made_on: str, said: bool, tmp_path: Path) -> None:
    folder = changed(made(tmp_path), base_model_name_or_path=made_on)
    notes = check_fits(tiny_models.causal("llama"), folder, None, "tiny")
    assert notes == ([f"the adapter was made on {made_on}, and is put on tiny"] if said else [])


def test_where_an_adapter_begins_to_act_is_said(tmp_path: Path) -> None:
    folder = made(tmp_path, alora_invocation_tokens=[7, 8])
    assert check_fits(tiny_models.causal("llama"), folder, None) == [
        "the adapter acts from the tokens [7, 8] on (aLoRA): a row without them is the base's"
    ]


def test_layers_that_are_repeated_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, layer_replication=[[0, 2], [1, 3]])
    with pytest.raises(InputError, match="layer_replication repeats layers of the base"):
        check_fits(tiny_models.causal("llama"), folder, None)
    with pytest.raises(InputError, match="adapter: layer_replication repeats"):
        attach(tiny_models.causal("llama"), peft_config({"layer_replication": [[0, 2], [1, 3]]}, "CAUSAL_LM"), seed=0)


OLD = {
    # The keys that configs had when these versions wrote them, and a layout of keys that they used.
    "0.6": {"alpha_pattern", "auto_mapping", "bias", "fan_in_fan_out", "init_lora_weights", "layers_pattern"},
    "0.10": {"alpha_pattern", "loftq_config", "megatron_config", "megatron_core", "use_dora", "use_rslora"},
}


@pytest.mark.parametrize("version", OLD)
def test_configs_of_old_versions_are_read(version: str, tmp_path: Path) -> None:
    folder = made(tmp_path)
    file = folder / "adapter_config.json"
    kept = OLD[version] | {
        "peft_type",
        "r",
        "lora_alpha",
        "target_modules",
        "task_type",
        "lora_dropout",
        "inference_mode",
    }
    config = {key: value for key, value in json.loads(file.read_text()).items() if key in kept}
    file.write_text(json.dumps(config))
    stock = PeftModel.from_pretrained(tiny_models.causal("llama"), folder).eval()
    assert check_fits(tiny_models.causal("llama"), folder, None) == []
    found = load_adapter(tiny_models.causal("llama"), folder, None)
    assert torch.equal(found(IDS).logits, stock(IDS).logits)
