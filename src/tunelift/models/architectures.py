"""What a GGUF file's metadata means for transformers, and back: the config, and what llama.cpp changes in weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tunelift.core.errors import InputError, listed
from tunelift.untrusted.gguf import GgufFile

Floats = npt.NDArray[np.float32]
Change = Callable[[str, Floats, dict[str, Any]], Floats]
"""(name in the GGUF, weights, transformers config) to the weights as transformers has them."""

SIZES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
HEAD = {"attention.key_length": "head_dim"}
GPT2_SIZES = {
    "context_length": "n_positions",
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
GEMMA3_27B_LAYERS = 62

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Kinds of tokens that are more than text (tokenizer.ggml.token_type)."""

SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # so spelt there
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
UNNAMED = {"bos_token": (1, CONTROL), "eos_token": (2, CONTROL), "unk_token": (0, UNKNOWN)}
"""Ids, and kinds of these tokens, that a sentencepiece vocabulary has unless the file says otherwise."""


@dataclass(frozen=True)
class Turn:
    """What llama.cpp changes in the weights of an architecture, both ways; each way takes back the other.

    `of_rows` says that rows of a matrix change places and nothing else, so that the same is done to what is multiplied
    to it from the left, as LoRA's B.
    """

    read: Change = lambda name, weights, config: weights
    write: Change = lambda name, weights, config: weights
    of_rows: bool = False


def _moved_norms(by: int) -> Change:
    """Gemma multiplies by 1 + weight; llama.cpp stores the sum."""
    return lambda name, weights, config: weights + by if name.endswith("norm.weight") else weights


ROTARY = {".attn_q.": "num_attention_heads", ".attn_k.": "num_key_value_heads"}


def _rotary_halves(name: str, weights: Floats, config: dict[str, Any]) -> Floats:
    """llama.cpp interleaves the two halves of each rotary pair in Llama's queries and keys; take that back."""
    heads = next((config[key] for part, key in ROTARY.items() if part in name), None)
    if heads is None:
        return weights
    return weights.reshape(heads, -1, 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _rotary_pairs(name: str, weights: Floats, config: dict[str, Any]) -> Floats:
    """Interleave the two halves, as llama.cpp has them."""
    heads = next((config[key] for part, key in ROTARY.items() if part in name), None)
    if heads is None:
        return weights
    return weights.reshape(heads, 2, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _transposed(name: str, weights: Floats, config: dict[str, Any]) -> Floats:
    """GPT-2 in transformers keeps its linear weights as (inputs, outputs)."""
    layers = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return weights.T if name.endswith(layers) else weights


NORMS = Turn(_moved_norms(-1), _moved_norms(1))
ROTATED = Turn(_rotary_halves, _rotary_pairs, of_rows=True)
TRANSPOSED = Turn(_transposed, _transposed)


@dataclass(frozen=True)
class Architecture:
    """One architecture: its model type in transformers, its keys in metadata and config, the change to its weights.

    `optional` keys stand in the metadata only where the config has a value. `written` are further model types that
    are written as this architecture, and `acts` what the runtime takes for the activation, whatever a config says.
    `tokenizer` is the transformers class; the general one takes a tokenizer.json as it is, which fits every file.
    `is_read` says that files of it are converted to transformers too, not only written.
    """

    model_type: str
    keys: dict[str, str]
    turn: Turn = Turn()
    tokenizer: str = "PreTrainedTokenizerFast"
    optional: dict[str, str] = field(default_factory=dict)
    written: tuple[str, ...] = ()
    acts: tuple[str, ...] = ("silu",)
    is_read: bool = True


CAPPED = {"final_logit_softcapping": "final_logit_softcapping"}
WINDOW = {"attention.sliding_window": "sliding_window"}
EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
GELU = ("gelu_pytorch_tanh",)

ARCHITECTURES = {
    "gemma2": Architecture(
        "gemma2",
        SIZES | HEAD | WINDOW,
        NORMS,
        optional=CAPPED | {"attn_logit_softcapping": "attn_logit_softcapping"},
        acts=GELU,
        is_read=False,
    ),
    "gemma3": Architecture("gemma3_text", SIZES | HEAD | WINDOW, NORMS, "GemmaTokenizer", optional=CAPPED, acts=GELU),
    "gpt2": Architecture("gpt2", GPT2_SIZES, TRANSPOSED, acts=("gelu_new",)),
    "llama": Architecture("llama", SIZES, ROTATED, optional=HEAD | EXPERTS, written=("mistral", "mixtral")),
    "phi3": Architecture("phi3", SIZES, is_read=False),
    "qwen2": Architecture("qwen2", SIZES),
    "qwen3": Architecture("qwen3", SIZES | HEAD),
    "qwen3moe": Architecture(
        "qwen3_moe",
        SIZES | HEAD | EXPERTS | {"expert_feed_forward_length": "moe_intermediate_size"},
        is_read=False,
    ),
}
"""One table both ways, by llama.cpp's names: what a GGUF file means in transformers, and what is written there."""


def architecture(file: GgufFile) -> tuple[str, Architecture]:
    """Return the architecture the file states; raise InputError for one that is not carried over."""
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES or not ARCHITECTURES[name].is_read:
        known = [key for key, kind in ARCHITECTURES.items() if kind.is_read]
        raise InputError(
            f"{file.path} holds a model of the architecture {name!r}, which cannot be converted yet.",
            fix=f"Supported: {listed(known)}. Or use the model's safetensors from the Hub.",
        )
    if any(key.startswith(f"{name}.expert_") for key in file.metadata):
        raise InputError(f"{file.path} holds a mixture of experts, which cannot be converted yet.")
    return name, ARCHITECTURES[name]


def config_values(file: GgufFile) -> dict[str, Any]:
    """Return the keyword arguments of the transformers config class that the metadata stands for."""
    name, kind = architecture(file)
    values: dict[str, Any] = {ours: _number(file, f"{name}.{theirs}") for theirs, ours in kind.keys.items()}
    if file.metadata[f"{name}.block_count"] > len(file.tensors):
        raise InputError(f"{file.path}: {name}.block_count is larger than the number of tensors.")
    values |= {
        ours: _number(file, f"{name}.{theirs}")
        for theirs, ours in kind.optional.items()
        if f"{name}.{theirs}" in file.metadata
    }
    values["vocab_size"] = len(_tokens(file))
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    for part in ("bos", "eos", "pad"):
        values[f"{part}_token_id"] = special_ids(file).get(f"{part}_token")
    if name != "gpt2":
        values["rope_parameters"] = _rope(file, name)
    if name == "gemma3" and values["num_hidden_layers"] == GEMMA3_27B_LAYERS:
        # The one Gemma 3 that scales attention by hidden_size / heads; the file does not say so.
        values["query_pre_attn_scalar"] = values["hidden_size"] // values["num_attention_heads"]
    return values


def special_ids(file: GgufFile) -> dict[str, int]:
    """Return the ids of the tokens that have a part to play, by transformers' names; raise InputError for wrong ones.

    Where a sentencepiece file names none, they are those that llama.cpp takes, if these tokens are of that kind.
    """
    found = {name: token_id(file, key) for name, key in SPECIAL.items()}
    ids = {name: index for name, index in found.items() if index is not None}
    if file.metadata.get("tokenizer.ggml.model") == "llama":
        kinds = numbers_of(file, "token_type")
        for name, (index, kind) in UNNAMED.items():
            if name not in ids and kinds[index : index + 1] == [kind]:
                ids[name] = index
    return ids


def ends_of_turns(file: GgufFile) -> list[int]:
    """Return the ids of the tokens that end an answer, the end of the text first."""
    found = [special_ids(file).get("eos_token"), *(token_id(file, key) for key in ("eot_token_id", "eom_token_id"))]
    return [*dict.fromkeys(index for index in found if index is not None)]


def numbers_of(file: GgufFile, key: str) -> list[Any]:
    """Return what tokenizer.ggml.KEY says of each token (its kind, its score), or nothing where the file does not."""
    values = file.metadata.get(f"tokenizer.ggml.{key}")
    if values is None:
        return []
    if not isinstance(values, np.ndarray) or len(values) != len(_tokens(file)):
        count = len(values) if isinstance(values, np.ndarray) else "other"
        raise InputError(f"{file.path}: {len(_tokens(file))} tokens, but {count} values of {key}.")
    found: list[Any] = values.tolist()
    return found


def token_id(file: GgufFile, key: str) -> int | None:
    """Return the id under tokenizer.ggml.KEY, None where there is none; raise InputError for one out of range."""
    value = file.metadata.get(f"tokenizer.ggml.{key}")
    if value is not None and (type(value) is not int or not 0 <= value < len(_tokens(file))):
        raise InputError(f"{file.path}: tokenizer.ggml.{key} is {value!r}, not the id of a token.")
    return value


def _tokens(file: GgufFile) -> list[str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise InputError(f"{file.path} has no vocabulary (tokenizer.ggml.tokens).")
    return tokens


def _rope(file: GgufFile, name: str) -> dict[str, Any]:
    """Return the rotary settings: base frequency, and linear scaling where there is one."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(_number(file, f"{name}.rope.freq_base"))}
    scaling = file.metadata.get(f"{name}.rope.scaling.type", "none")
    if scaling == "linear":
        rope |= {"rope_type": "linear", "factor": float(_number(file, f"{name}.rope.scaling.factor"))}
    elif scaling != "none" or "rope_freqs.weight" in file.tensors:
        raise InputError(
            f"{file.path} scales its rotary frequencies in a way that cannot be converted yet ({scaling})."
        )
    return {"full_attention": rope} if name == "gemma3" else rope


def _number(file: GgufFile, key: str) -> int | float:
    value = file.metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise InputError(f"{file.path}: {key} is {value!r}, where a positive number is needed.")
    return value
