"""What IA3 scales where nobody says: by peft's own table, else by the names and widths of the model's layers."""

from __future__ import annotations

from typing import Any

import pytest

import tiny_models
from tunelift.adapters.build import attach, peft_config
from tunelift.adapters.targets import kind
from tunelift.core.errors import InputError

DECODERS = {
    "llama": ({"self_attn.k_proj", "self_attn.v_proj"}, {"mlp.down_proj"}),
    "gpt2": ({"attn.c_attn"}, {"mlp.c_proj"}),
    "cohere": ({"self_attn.k_proj", "self_attn.v_proj"}, {"mlp.down_proj"}),
    "phi3": ({"self_attn.qkv_proj"}, {"mlp.down_proj"}),
    "biogpt": ({"self_attn.k_proj", "self_attn.v_proj"}, {"fc2"}),
    "openai-gpt": ({"attn.c_attn"}, {"mlp.c_proj"}),
    "qwen3_moe": ({"self_attn.k_proj", "self_attn.v_proj"}, set[str]()),
    "mamba": ({"mixer.in_proj", "mixer.x_proj"}, set[str]()),
}
ENCODERS = {
    "bert": ({"attention.self.key", "attention.self.value"}, {"attention.output.dense", "output.dense"}),
    "distilbert": ({"attention.k_lin", "attention.v_lin"}, {"ffn.lin2"}),
    "albert": ({"attention.key", "attention.value"}, {"ffn_output"}),
    "modernbert": ({"attn.Wqkv"}, {"mlp.Wo"}),
}
SMALL: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "mamba": {"state_size": 8},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2},
    "albert": {"embedding_size": 32},
}


def scaled(model: Any, task_type: str, **keys: Any) -> tuple[set[str], set[str]]:
    """Return the kinds of layers whose outputs are scaled, and those whose inputs are."""
    adapted = attach(model, peft_config({"method": "ia3", **keys}, task_type, model), seed=0)
    layers = [(name, module) for name, module in adapted.named_modules() if hasattr(module, "is_feedforward")]
    inputs = {kind(name) for name, module in layers if module.is_feedforward}
    return {kind(name) for name, module in layers if not module.is_feedforward}, inputs


@pytest.mark.parametrize("name", DECODERS)
def test_the_layers_of_a_decoder(name: str) -> None:
    assert scaled(tiny_models.causal(name, **SMALL.get(name, {})), "CAUSAL_LM") == DECODERS[name]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_layers_of_an_encoder(name: str) -> None:
    assert scaled(tiny_models.classifier(["a", "b"], name, **SMALL.get(name, {})), "SEQ_CLS") == ENCODERS[name]


def test_the_users_layers_come_first() -> None:
    model = tiny_models.causal("cohere")
    assert scaled(model, "CAUSAL_LM", target_modules=["v_proj", "down_proj"]) == (
        {"self_attn.v_proj"},
        {"mlp.down_proj"},
    )
    with pytest.raises(InputError, match="should be a subset"):
        scaled(tiny_models.causal("cohere"), "CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=["down_proj"])
