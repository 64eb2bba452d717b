"""How a model is built and what it takes, by its modules and its config."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""What configs call the number of positions. The first limits rows of data; rows that we make up stay within all."""

UNLIMITED = 2**31


def base_of(model: Any) -> Any:
    """Return the model that peft's own is put around, or the model itself where no adapter is on."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_body(model: Any) -> bool:
    """Tell whether a model is one of transformers' without any head: hidden states are all that it gives."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    name = type(model).__name__
    return any(name == own or (isinstance(own, tuple) and name in own) for own in MODEL_MAPPING_NAMES.values())


def layers(decoder: Any) -> nn.ModuleList | None:
    """Return the layers of a decoder or an encoder, None where they are no list of their own."""
    from torch import nn

    count = getattr(getattr(decoder, "config", None), "num_hidden_layers", None)
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return lists[0] if len(lists) == 1 else None


def vocabulary(model: Any) -> int | None:
    """Return how many tokens a model's config says that it knows."""
    return getattr(model.config.get_text_config(), "vocab_size", None)


def positions(model: Any, names: Sequence[str] = POSITIONS) -> int | None:
    """Return the least number of positions that a model's config has under these names, None where it has none."""
    config = model.config.get_text_config()
    named = [getattr(config, name, None) or 0 for name in names]
    return min((int(count) for count in named if count > 0), default=None)  # XLNet's config says -1: no limit


def tells_segments(model: Any) -> bool:
    """Tell whether a model learns of token types which of two texts a token is of, as BERT does.

    Others take an argument of this name for something else (GPT-2 adds embeddings of words by it, Gemma 3 tells images
    by it) or have no table of segments. So the table is asked for: by its size in the config, or as XLNet and Funnel
    call it in their attention.
    """
    base = base_of(model)
    if "token_type_ids" not in signature(base.forward).parameters:
        return False
    has_table = (getattr(base.config, "type_vocab_size", None) or 0) > 1
    return has_table or any(name.endswith(".seg_embed") for name, _ in base.named_parameters())


def own_pad_id(model: Any) -> int | None:
    """Return the id that a model's config names for padding."""
    return getattr(model.config.get_text_config(), "pad_token_id", None)


def pad_id(model: Any, tokenizer: Any = None) -> int:
    """Return the id to pad with: the model's own first, since a head on a decoder finds a row's last token by it."""
    known = (own_pad_id(model), getattr(tokenizer, "pad_token_id", None))
    return next((int(token) for token in known if token is not None), 0)


def context_length(model: Any, tokenizer: Any) -> int:
    """Return how many tokens of a row the model takes at most, by its positions and by what its tokenizer says.

    Those that an adapter puts before each row take up positions of it.
    """
    told = int(getattr(tokenizer, "model_max_length", None) or UNLIMITED)  # what reads pictures tells none
    own = positions(model, POSITIONS[:1]) or UNLIMITED
    return min(own, told, _usable(model), _before_scaling(model)) - virtual_tokens(model)


def virtual_tokens(model: Any) -> int:
    """Return how many tokens, or keys and values of tokens, an adapter puts before each row."""
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens or 0) if getattr(config, "is_prompt_learning", False) else 0


def begins_by_its_ids(model: Any) -> bool:
    """Tell whether an adapter looks in all ids of a row for where it begins to act (aLoRA)."""
    return bool(beginning_tokens(model))


def beginning_tokens(model: Any) -> set[int]:
    """Return the ids at which an adapter on the model begins to act, of those that look for such."""
    configs = getattr(model, "peft_config", None) or {}
    named = [getattr(config, "alora_invocation_tokens", None) or () for config in configs.values()]
    return {int(token) for tokens in named for token in tokens}


def _usable(model: Any) -> int:
    """Return the positions of a table that counts from behind its padding's, as RoBERTa's does: 512 of 514."""
    tables = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "position_embeddings"]
    padded = [m for m in tables if getattr(m, "padding_idx", None) is not None and hasattr(m, "num_embeddings")]
    return min((int(m.num_embeddings - m.padding_idx - 1) for m in padded), default=UNLIMITED)


def _before_scaling(model: Any) -> int:
    """Return the length up to which rotary angles do not depend on the longest row of a batch.

    Beyond it, "longrope" and "dynamic" turn every row of the batch otherwise, short ones too.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type") not in ("longrope", "dynamic"):
        return UNLIMITED
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or getattr(config, "max_position_embeddings", None) or UNLIMITED)
