"""An adapter added to its base's weights: one model in 32 bits, whose head stays its own where it was tied."""

from __future__ import annotations

from typing import Any

from tunelift.adapters.methods import METHODS, method_of, name_of, title_of
from tunelift.core.errors import InputError
from tunelift.model_facts.anatomy import base_of

STAYS = "It stays an adapter: stock peft reads the run's adapter/ as it lies."


def check_merges(adapted: Any) -> None:
    """Raise InputError for an adapter that is no change of weights."""
    config = adapted.peft_config[adapted.active_adapter]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    named = title_of(name_of(kind) or kind)
    if not method_of(config).merges or method_of(config).virtual_tokens or name_of(kind) not in METHODS:
        raise InputError(
            f"The adapter is of {named}, which is no change of the base's weights: there is no merged model.",
            fix=STAYS,
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise InputError(
            "The adapter acts from some tokens on (aLoRA), so that no weights are its.",
            fix=STAYS,
        )


def merged(adapted: Any) -> Any:
    """Return the base with the adapter in its weights; the model that is given is used up.

    Where the adapter changes one of two tied weights, they are tied no longer.
    """
    check_merges(adapted)
    _untie_adapted(adapted)
    model = adapted.merge_and_unload(safe_merge=True)
    if _are_tied(model.config) and not _one_weight(model):
        _say_untied(model)
    return model.eval()


def untied_bytes(adapted: Any) -> int:
    """Return how many bytes in 32 bits a head takes that merging gives a weight of its own."""
    head = _adapted_tied_head(adapted)
    return 4 * head.weight.numel() if head is not None else 0


def _untie_adapted(adapted: Any) -> None:
    """Give the head a weight of its own where it shares one with embeddings and something is on either."""
    import torch

    if (head := _adapted_tied_head(adapted)) is not None:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        _say_untied(base_of(adapted))


def _adapted_tied_head(adapted: Any) -> Any:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    model = base_of(adapted)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if None in layers or not any(isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) for layer in layers):
        return None
    inner, outer = (_bare(layer) for layer in layers)
    return outer if inner.weight is outer.weight else None


def _bare(layer: Any) -> Any:
    """Return the base's own layer below whatever peft put around it."""
    while True:
        for inside in ("base_layer", "original_module"):
            if hasattr(layer, inside):
                layer = getattr(layer, inside)
                break
        else:
            return layer


def _one_weight(model: Any) -> bool:
    inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
    return outer is None or inner.weight is outer.weight


def _are_tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _say_untied(model: Any) -> None:
    model.config.tie_word_embeddings = False
    text = model.config.get_text_config()
    text.tie_word_embeddings = False
    model._tied_weights_keys = None  # or saving would leave the head out again


def base_parameters(model: Any) -> dict[str, Any]:
    """Return the base's own parameters by their names, below an adapter that may be on."""
    if not hasattr(model, "peft_config"):
        return dict(model.named_parameters())
    prefix = getattr(model.base_model, "prefix", "lora_")
    found = {}
    for name, parameter in base_of(model).named_parameters():
        parts = name.split(".")
        if any(part.startswith(prefix) or part == "modules_to_save" for part in parts[:-1]) or parts[-1].startswith(
            prefix
        ):
            continue
        if "trainable_tokens_delta" in parts or "trainable_tokens_original" in parts:
            continue
        found[".".join(part for part in parts if part not in ("base_layer", "original_module"))] = parameter
    return found
