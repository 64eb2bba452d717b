"""Tiny models of every architecture that is written as GGUF, with items and what transformers says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

import tiny_models
from tiny_tokenizers import CHAT, byte_level
from tunelift.exporting import gguf_file, gguf_weights
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.merging import base_parameters
from tunelift.exporting.stock import values_of
from tunelift.model_facts.anatomy import base_of

EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "norm_topk_prob": True,
}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 6}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "attn_logit_softcapping": None, "num_hidden_layers": 7},
    "phi3": {},
    "gpt2": {},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
}
ROUNDED = ("gemma2", "gemma3_text", "gpt2")
"""Where llama.cpp looks GELU up in a table of 16 bits (ggml_vec_gelu_f32 in ggml/src/ggml-cpu/vec.h)."""


def model(kind: str, **changes: Any) -> Any:
    return tiny_models.causal(kind, **{**KINDS[kind], **changes})


def tokenizer(template: str | None = CHAT) -> Any:
    return byte_level(template=template)


def items(lengths: tuple[int, ...] = (5, 12, 30)) -> list[Item]:
    """Random tokens behind BOS, and EOS at the end; parts of letters are among them."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for number, length in enumerate(lengths):
        ids = (0, *torch.randint(4, 260, (length,), generator=draw).tolist(), 1)
        found.append(Item(str(number), ids, tuple(range(3, len(ids)))))
    return found


def scores(model: Any, asked: list[Item]) -> Scores:
    return {item.name: values_of(model, item.ids, item.targets) for item in asked}


def write_base(file: Path, model: Any, change: Callable[[str, Any], Any] | None = None, **values: Any) -> Path:
    """Write the base below an adapter, or a model, in 32 bits; `change` makes a fault of a tensor (None leaves out)."""
    config = base_of(model).config
    layout, own = gguf_weights.Layout.of(config), base_parameters(model)
    said = gguf_file.model_metadata(config, tokenizer(), [1], "tiny", "f32") | values

    def tensors() -> Any:
        for name, weights in layout.tensors(own):
            changed = change(name, weights) if change else weights
            if changed is not None:
                yield name, changed

    gguf_file.write(file, {k: v for k, v in said.items() if v is not None}, tensors, "f32")
    return file


LAYERS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "gate_up_proj", "down_proj"],
    "mixtral": ["q_proj", "k_proj", "o_proj"],
    "qwen3_moe": ["q_proj", "k_proj", "o_proj"],
}
HEADS = {"llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral", "qwen3_moe"}


def lora(model: Any, kind: str) -> Any:
    """A LoRA with a scale by rsLoRA, ranks and alphas of their own, on head and embeddings too where they are two."""
    layers = LAYERS.get(kind, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"])
    heads = ["embed_tokens", "lm_head"] if kind in HEADS else []
    patterns = {"rank_pattern": {layers[0]: 2}, "alpha_pattern": {layers[1]: 3}}
    torch.manual_seed(1)
    config = LoraConfig(
        target_modules=[*layers, *heads], r=4, lora_alpha=6, use_rslora=True, init_lora_weights=False, **patterns
    )  # type: ignore[arg-type]
    return get_peft_model(model, config).eval()
