"""Tiny random models of many architectures, built from their own configs."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tiny_tokenizers import byte_level

VOCABULARY = 400

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 1.0, "sliding_window": 64},
    "gemma3_text": {"sliding_window": 64, "final_logit_softcapping": 2.0},
    "qwen3": {},
    "phi3": {"sliding_window": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "cohere": {"logit_scale": 0.25},
    "bloom": {"n_layer": 2, "n_head": 2},
}


NO_DROPOUT = {
    "dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "seq_classif_dropout": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip
"""Changes of a config that take all dropout out, whatever an architecture calls it."""


def causal(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """Return a tiny random causal language model in evaluation mode, its weights large enough to matter."""
    config = AutoConfig.for_model(kind, **{**SIZES, **ARCHITECTURES.get(kind, {}), **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def adapted(model: Any, **settings: Any) -> Any:
    """Return peft's model with a LoRA that is no no-op."""
    torch.manual_seed(1)
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, r=4, task_type="CAUSAL_LM", **settings)
    return get_peft_model(model, config).eval()


def classifier(labels: list[str], kind: str = "bert", **changes: Any) -> Any:
    """Return a tiny random classifier."""
    config = AutoConfig.for_model(
        kind,
        **{**SIZES, **changes},
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


def tokenizer() -> Any:
    return byte_level()
