"""A transformers config as the metadata of a GGUF file, or a refusal: llama.cpp computes some things one way only.

What it takes for granted of an architecture is in its src/models/; a config that says otherwise would be computed
otherwise, in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunelift.core.errors import InputError, listed
from tunelift.models.architectures import ARCHITECTURES, GEMMA3_27B_LAYERS, Architecture

GEMMA2_27B_LAYERS = 46
ALIKE = {"gemma2": 2, "gemma3": 6}
"""Of so many layers the last sees the whole text, the others a window."""


def written_as(model_type: str) -> tuple[str, Architecture]:
    """Return llama.cpp's name of a model type, and its row; raise InputError for one that is not written."""
    for name, kind in ARCHITECTURES.items():
        if model_type == kind.model_type or model_type in kind.written:
            return name, kind
    known = [kind for row in ARCHITECTURES.values() for kind in (row.model_type, *row.written)]
    raise InputError(
        f"Models of the type {model_type} are not written as GGUF here.",
        fix=f"Written are {listed(known)}. Export it to merged, which llama.cpp's own converter may take.",
    )


def metadata(config: Any) -> dict[str, Any]:
    """Return {key: value} of a model's sizes, without its vocabulary, and "context" under general.

    Raises InputError, with every reason, for a config that llama.cpp computes otherwise.
    """
    name, kind = written_as(config.model_type)
    if problems := list(_problems(config, name, kind)):
        raise InputError(*problems, fix="llama.cpp would compute another model, in silence. Export it to merged.")
    found: dict[str, Any] = {"general.architecture": name}
    for theirs, ours in kind.keys.items():
        value = getattr(config, ours)
        if ours == "n_inner" and value is None:
            value = 4 * config.n_embd
        found[f"{name}.{theirs}"] = value
    for theirs, ours in kind.optional.items():
        if getattr(config, ours, None) is not None:
            found[f"{name}.{theirs}"] = getattr(config, ours)
    found[f"{name}.context_length"] = context(config)
    found[f"{name}.vocab_size"] = config.vocab_size
    if f"{name}.attention.key_length" in found:
        found[f"{name}.attention.value_length"] = found[f"{name}.attention.key_length"]
    if name != "gpt2":
        found |= _rotary(config, name)
    return found


def context(config: Any) -> int:
    """Return how many tokens llama.cpp sees as the model does: where it knows no window, up to that."""
    longest: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("mistral", "phi3", "mixtral", "qwen3_moe") and window:
        return min(longest, int(window))
    return longest


def _rotary(config: Any, name: str) -> dict[str, Any]:
    rope = config.rope_parameters
    whole = rope.get("full_attention", rope)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found: dict[str, Any] = {f"{name}.rope.freq_base": float(whole["rope_theta"])}
    found[f"{name}.rope.dimension_count"] = int(head * whole.get("partial_rotary_factor", 1.0))
    if whole["rope_type"] == "linear":
        found |= {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": float(whole["factor"])}
    if "sliding_attention" in rope:
        found[f"{name}.rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    return found


def _problems(config: Any, name: str, kind: Architecture) -> Iterator[str]:
    act = next((getattr(config, key, None) for key in ("hidden_activation", "hidden_act", "activation_function")
                if getattr(config, key, None)), None)  # fmt: skip
    if act not in kind.acts:
        yield f"The activation is {act}, and llama.cpp's {name} has {listed(kind.acts)}"
    yield from _wrong_rotary(config, name)
    if name in ALIKE:
        yield from _wrong_gemma(config, name)
    if getattr(config, "use_sliding_window", False):
        yield "The model has a sliding window, which llama.cpp's does not"
    if name == "qwen3moe":
        if not config.norm_topk_prob:
            yield "The experts' weights are not made to sum to 1 (norm_topk_prob), and llama.cpp's are"
        if config.decoder_sparse_step != 1 or config.mlp_only_layers:
            yield "Some layers have no experts (decoder_sparse_step, mlp_only_layers), and llama.cpp's all have"
    if name == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        yield "The attention is scaled otherwise (scale_attn_by_inverse_layer_idx, scale_attn_weights)"


def _wrong_rotary(config: Any, name: str) -> Iterator[str]:
    rope = getattr(config, "rope_parameters", None)
    if name == "gpt2":
        return
    if not rope:
        yield "The config has no rotary settings (rope_parameters)"
        return
    whole, part = rope.get("full_attention", rope), rope.get("sliding_attention")
    for one in filter(None, (whole, part)):
        if one["rope_type"] not in ("default", "linear") or (one is part and one["rope_type"] != "default"):
            yield f"The rotary positions are scaled ({one['rope_type']}), which is not written yet"
    if name not in ("phi3",) and whole.get("partial_rotary_factor", 1.0) != 1.0:
        yield "Only a part of each head has rotary positions (partial_rotary_factor), and llama.cpp turns all of it"


def _wrong_gemma(config: Any, name: str) -> Iterator[str]:
    layers, every = config.num_hidden_layers, ALIKE[name]
    kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
    if list(config.layer_types) != kinds:
        yield f"The layers that see the whole text are others than every {every}th"
    largest = {"gemma2": GEMMA2_27B_LAYERS, "gemma3": GEMMA3_27B_LAYERS}[name]
    scalar = config.hidden_size // config.num_attention_heads if layers == largest else config.head_dim
    if config.query_pre_attn_scalar != scalar:
        own = config.query_pre_attn_scalar
        yield f"The attention is scaled by {own} (query_pre_attn_scalar), and there by {scalar}"
    if name == "gemma3" and getattr(config, "attn_logit_softcapping", None):
        yield "The attention's logits are capped (attn_logit_softcapping), which llama.cpp's gemma3 leaves out"
    if getattr(config, "use_bidirectional_attention", False):
        yield "The attention sees what comes behind (use_bidirectional_attention)"
