"""Adapters in mlx-lm itself: each architecture with everything that its one rank and scale have to carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

import exported
import tiny_models
from exported import KINDS
from tunelift.core.errors import InputError, TuneliftError
from tunelift.exporting import lora_factors, mlx_runtime, to_mlx
from tunelift.exporting.equality import FLOOR, equal
from tunelift.exporting.merging import base_parameters
from tunelift.model_facts.anatomy import base_of
from tunelift.models.mlx_names import MLX_NAMES, from_mlx
from tunelift.models.mlx_names import to_mlx as name_there

BASES: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 64},  # it has none in mlx-lm
    "gemma3_text": {"final_logit_softcapping": None},
    "gpt2": {"n_inner": None},
}


def model(kind: str, **changes: Any) -> Any:
    return exported.model(kind, **BASES.get(kind, {}), **changes)


def runs() -> None:
    for package in mlx_runtime.PACKAGES:
        pytest.importorskip(package, reason="adapters are run in mlx-lm where the extra mlx is installed")


def there(folder: Path, adapted: Any, asked: list[Any]) -> Any:
    """Return what mlx-lm says of items, of the base and with the adapter on it."""
    base, adapter = folder / "base", folder / "adapter"
    for place in (base, adapter):
        place.mkdir()
    to_mlx.write_base(base, base_of(adapted), base_parameters(adapted))
    to_mlx.write(adapter, adapted)
    return mlx_runtime.ask(base, asked, adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_on_each_architecture_acts_there_as_in_peft(kind: str, tmp_path: Path) -> None:
    runs()
    to_mlx.to_mlx_adapter(*exported.made(exported.lora(model(kind), kind)), tmp_path, "f32")
    base, alone, tuned, there = exported.sides(tmp_path)
    assert equal(base, alone, FLOOR).holds, equal(base, alone, FLOOR)
    assert equal(tuned, there, FLOOR).holds, equal(tuned, there, FLOOR)
    assert equal(base, tuned, 0).largest > 1000 * FLOOR
    if kind in exported.TIED:
        with pytest.raises(InputError, match="both are one tensor"):
            lora_factors.check_plain(exported.lora(model(kind), kind, ends=True), "mlx-lm", "", dora=True)


def test_dora_has_its_magnitudes_there(tmp_path: Path) -> None:
    runs()
    asked = exported.items()
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, lora_alpha=6, use_rslora=True, use_dora=True)
    adapted = get_peft_model(model("llama"), config).eval()
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name or "lora_B" in name:
            parameter.data.add_(0.1)
    answer = there(tmp_path, adapted, asked)
    assert equal(exported.scores(adapted, asked), answer["scores"], FLOOR).holds
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fine_tune_type"] == "dora"


@pytest.mark.parametrize("lost", ["scale", "magnitudes", "a layer", "another base"])
def test_what_is_lost_on_the_way_is_caught_by_the_scores(lost: str, tmp_path: Path) -> None:
    runs()
    asked = exported.items()
    config = LoraConfig(
        target_modules=["q_proj", "v_proj"], lora_alpha=9, r=4, use_dora=lost == "magnitudes", init_lora_weights=False
    )
    adapted = get_peft_model(model("llama"), config).eval()
    right = exported.scores(adapted, asked)
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name and lost == "magnitudes":
            parameter.data.mul_(0.5)
        if "layers.1.self_attn.v_proj.lora_B" in name and lost == "a layer":
            parameter.data.zero_()
        if "norm.weight" in name and lost == "another base":
            parameter.data.mul_(1.5)
    if lost == "scale":
        for layer in adapted.modules():
            if hasattr(layer, "scaling") and isinstance(layer.scaling, dict):
                layer.scaling["default"] = 1.0
    assert not equal(right, there(tmp_path, adapted, asked)["scores"], 1e-3).holds


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["norm"]}, "trained whole"),
        ({"trainable_token_indices": [3]}, "trained tokens"),
    ],
)
def test_what_mlx_lm_has_no_place_for_is_refused(settings: dict[str, Any], what: str) -> None:
    config = LoraConfig(target_modules=["q_proj"], r=2, **settings)
    adapted = get_peft_model(tiny_models.causal("llama", attention_bias=True), config)
    with pytest.raises(InputError, match="--to merged") as error:
        lora_factors.check_plain(adapted, "mlx-lm", to_mlx.MERGED, dora=True)
    assert what in str(error.value)


def test_dora_on_embeddings_is_refused() -> None:
    config = LoraConfig(target_modules=["embed_tokens"], r=2, use_dora=True)
    with pytest.raises(InputError, match="embeddings with DoRA"):
        to_mlx.tensors(get_peft_model(tiny_models.causal("llama", tie_word_embeddings=False), config))


@pytest.mark.parametrize("kind", MLX_NAMES)
def test_names_go_both_ways_and_others_are_refused(kind: str) -> None:
    layer = "transformer.h.1.attn.c_attn" if kind == "gpt2" else "model.layers.1.self_attn.q_proj"
    assert from_mlx(name_there(layer, kind), kind) == layer
    for other in ("model.layers.1.input_layernorm", "vision_tower.layers.1.mlp.fc1", "model.h.1.ln_1"):
        for change in (name_there, from_mlx):
            with pytest.raises(InputError, match="has no layer"):
                change(other, kind)
    with pytest.raises(InputError, match="bloom"):
        name_there(layer, "bloom")


def test_what_mlx_lm_says_is_shown(tmp_path: Path) -> None:
    runs()
    adapted = exported.lora(model("llama"), "llama")
    to_mlx.write_base(tmp_path, base_of(adapted), base_parameters(adapted))
    (tmp_path / "adapter").mkdir()
    to_mlx.write(tmp_path / "adapter", adapted)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"rank": 4', '"rank": 3'), encoding="utf-8")
    with pytest.raises(TuneliftError, match=r"mlx-lm does not run .*incompatible tensors"):
        mlx_runtime.ask(tmp_path, exported.items(), tmp_path / "adapter")
