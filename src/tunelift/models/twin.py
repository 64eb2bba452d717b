"""A tiny twin of a model: the same architecture with the same switches, narrow, of random weights.

What can be done with a model's layers is seen on it in seconds, and without the model's files.
"""

from __future__ import annotations

from typing import Any

from tunelift.core import randomness
from tunelift.core.errors import InputError
from tunelift.fast.classifying import said_of
from tunelift.tasks import Task

TOO_LARGE = 20_000_000
"""Parameters of a twin that is none: its config has widths under names that nobody knows here."""

SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "dim", "n_embed", "word_embed_proj_dim", "embedding_size"), 32
    ),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "shared_intermediate_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "mamba_n_heads"), 4),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "moe_intermediate_size", "mamba_d_head"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("state_size", "mamba_d_state"), 8),
    **dict.fromkeys(("num_experts_per_tok", "mamba_expand"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_key_value_heads", "mamba_n_groups"), 1),
    **{"vocab_size": 160, "num_decoder_layers": 3, "encoder_ffn_dim": 48, "sliding_window": 64, "hidden_act": "silu"},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True, "is_encoder_decoder": False},
}
"""Values for whatever keys of these names a config has."""

SPECIAL: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8, "n_head": 4},
    "cohere_compass_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "diffllama": {"num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 8},
    "dots1": {"n_shared_experts": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8},
    "gemma4_text": {"vocab_size_per_layer_input": 160, "hidden_size_per_layer_input": 8, "per_layer_config": None},
    "gptj": {"rotary_dim": 8},
    "kimi_linear": {"num_experts_per_token": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"expert_ffn_hidden_size": 16, "zero_expert_num": 2, "moe_topk": 2, "ffn_hidden_size": 48},
    "reformer": {"axial_pos_embds": False, "axial_pos_embds_dim": [16, 16]},
    "xlm": {"emb_dim": 32, "n_words": 160, "max_position_embeddings": 128},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]], "num_layers": 3},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2},
}
"""What some types want besides."""

KEPT = ("hidden_act", "is_decoder", "is_encoder_decoder")
"""Keys of SMALL that a twin has from its model."""


def small_sizes(own: dict[str, Any]) -> dict[str, Any]:
    """Return small values for the keys that a config has, those of its parts too, and no dropout, which is drawn."""
    sizes = {key: value for key, value in SMALL.items() if key in own}
    sizes |= {key: 0.0 for key, value in own.items() if "drop" in key and isinstance(value, float)}
    sizes |= {
        key: small_sizes(value) for key, value in own.items() if isinstance(value, dict) and "model_type" in value
    }
    layers = next((own[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if own.get(key)), 0)
    lists = {k: v for k, v in own.items() if isinstance(v, (list, tuple)) and len(v) == layers > 3}
    if lists:  # one of each kind of layer, as far as three go
        kinds = next((v for k, v in lists.items() if "type" in k), next(iter(lists.values())))
        other = next((i for i, value in enumerate(kinds) if value != kinds[0]), 1)
        chosen = sorted({0, other, 1 if other > 1 else 2})
        sizes |= {key: [value[i] for i in chosen] for key, value in lists.items()}
    if "kv_lora_rank" in own:  # latent attention has as many heads of keys
        sizes |= {"num_key_value_heads": 2} | ({"head_dim": 8} if "head_dim" in own else {})
    return sizes


def twin(config: Any, task: Task, labels: list[str], seed: int = 0) -> tuple[Any, Any]:
    """Return a tiny model of a transformers config's architecture, for a task, and a tokenizer for it.

    `labels` are the classes of a head. The weights are drawn by `seed`, large enough to matter. Raises InputError where
    none can be made.
    """
    import torch
    import transformers

    tokens = tokenizer()
    auto, given = getattr(transformers, task.auto_class), config.to_dict()
    sizes = {key: value for key, value in small_sizes(given).items() if key not in KEPT}
    sizes = _merged(sizes | SPECIAL.get(config.model_type, {}), _fitted(given, len(tokens)))
    try:
        small = type(config).from_dict(_merged(_weightless(given, task, labels), sizes))
        with torch.device("meta"):  # what parts in configs of their own take is seen without taking it
            count = sum(p.numel() for p in auto.from_config(small).parameters())
        if count > TOO_LARGE:
            raise ValueError(f"with the usual keys made small it has {count:,} parameters")
        with randomness.seeded(seed):
            model = auto.from_config(small).float().eval()
        _enlarge(model, seed)
        with torch.no_grad():
            said_of(model, {"input_ids": torch.tensor([[5, 6, 7]])})
    except Exception as error:  # whatever a model file makes of sizes that no model of its kind has
        raise InputError(
            f"No tiny twin of a {config.model_type} model can be made: {str(error).partition(chr(10))[0]}",
            fix="Try a method on the model itself: tunelift tune checks it before anything is computed.",
        ) from error
    return model, tokens


def shapes(config: Any, task: Task, labels: list[str]) -> Any:
    """Return a model of a config that has the shapes of its weights and no weights."""
    import torch
    import transformers

    given = _weightless(config.to_dict(), task, labels)
    with torch.device("meta"):
        return getattr(transformers, task.auto_class).from_config(type(config).from_dict(given)).eval()


def tokenizer() -> Any:
    """Return a tokenizer of bytes, with tokens for padding and what is hidden, and one that begins and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    known = [*names.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([*names.values()])
    ends = [("<s>", 1), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A </s> $B:1", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _weightless(given: dict[str, Any], task: Task, labels: list[str]) -> dict[str, Any]:
    """Return a config without what is said of a checkpoint's weights, and with the labels of a head."""
    beside = ("quantization_config", "dtype", "torch_dtype", "_name_or_path", "auto_map")
    kept = {key: value for key, value in given.items() if key not in beside}
    if task.has_head:
        kept |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return kept


def _fitted(given: dict[str, Any], tokens: int) -> dict[str, Any]:
    """Return what a config and its parts are to have otherwise, that the tokens fit and the heads' rotary pairs do."""
    sizes: dict[str, Any] = {k: tokens for k in ("vocab_size", "n_words", "vocab_size_per_layer_input") if k in given}
    rope = given.get("rope_parameters")
    if isinstance(rope, dict):
        of_kinds = {key: _plain(value) for key, value in rope.items() if isinstance(value, dict)}
        sizes["rope_parameters"] = of_kinds or _plain(rope)
    parts = {key: value for key, value in given.items() if isinstance(value, dict) and "model_type" in value}
    return sizes | {key: _fitted(value, tokens) for key, value in parts.items()}


def _plain(rope: dict[str, Any]) -> dict[str, Any]:
    """Return rotary settings without factors for each pair of a head, of which there are fewer."""
    if any(isinstance(value, (list, tuple)) for value in rope.values()):
        return {
            "rope_type": "default",
            **{key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope},
        }
    return rope


def _merged(given: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a config with changes, those of its parts too; other mappings are replaced."""
    found = dict(given)
    for key, value in changes.items():
        part = key.endswith("config") and isinstance(value, dict) and isinstance(given.get(key), dict)
        found[key] = _merged(given[key], value) if part else value
    return found


def _enlarge(model: Any, seed: int) -> None:
    """Make weights so large that they matter; with zeros alone a router would choose by rounding."""
    import torch

    with randomness.seeded(seed), torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.1)
            if parameter.dim() > 1 and not name.endswith("A_log"):  # whose exponent is taken
                parameter.mul_(3)
            if name.endswith("bias"):  # which begin at zero, and would scale nothing
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
