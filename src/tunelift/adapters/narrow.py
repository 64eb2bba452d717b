"""Bases whose linear layers are held in few bits: which adapters can be put on them, and which cannot, with why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunelift.adapters.methods import METHODS, method_of, title_of
from tunelift.core.errors import InputError, listed

WIDENED_BY_PEFT = ("HIRA", "SHIRA", "UNILORA")
"""Methods for which peft 0.21 asks bitsandbytes for the numbers of its layers, as it does for DoRA."""

BESIDE_WEIGHTS = ("gaussian", "orthogonal", "eva")
"""Beginnings of LoRA that need no numbers of a layer; EVA's are made of what the layers take."""
OF_WEIGHTS = {
    "lora_ga": "the loss's gradient at the layers' weights, which few bits do not have",
    "corda": "the numbers of the layers, and with what they take",
}


def check_narrow(model: Any, config: Any, where: str) -> None:
    """Raise InputError for an adapter that computes with the numbers of weights that are held in few bits.

    `config` is peft's own, or what a folder holds of one.
    """
    from tunelift.fast.blocks import BlockEmbedding, in_blocks

    told: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
    by_peft = getattr(model, "is_loaded_in_4bit", False)
    if not in_blocks(model) and not by_peft and not getattr(model, "is_loaded_in_8bit", False):
        return
    name = str(getattr(told.get("peft_type"), "value", told.get("peft_type")))
    row = next((METHODS.get(one) for one in METHODS if METHODS.get(one).peft_type == name), method_of(None))
    begins = told.get("init_lora_weights")
    reason = ""
    of_weights = isinstance(begins, str) and begins not in BESIDE_WEIGHTS
    if by_peft and (name in WIDENED_BY_PEFT or not row.reads_weights) and not of_weights:
        return
    if row.reads_weights:
        reason = f"{row.title or title_of(name)} computes with the numbers of the layers that it changes"
    elif told.get("use_dora"):
        reason = "DoRA (use_dora) computes with the numbers of the layers that it changes"
    elif of_weights:
        reason = f"init_lora_weights {begins} begins with {OF_WEIGHTS.get(str(begins), 'the numbers of the layers')}"
    elif _trains_tokens(told, name) and any(isinstance(module, BlockEmbedding) for module in model.modules()):
        reason = "tokens that are trained begin with rows of the embeddings, which lie in blocks too"
    elif copied := [one for one in told.get("modules_to_save") or [] if _lies_in_blocks(model, str(one))]:
        reason = f"modules_to_save ({listed(copied)}) trains a copy of what lies in blocks"
    if reason:
        able = listed([one for one in METHODS if not METHODS.get(one).reads_weights], 99)
        raise InputError(
            f"{where}: {reason}, and the base is held in few bits (model.quantization).",
            fix=f"Take the base in full precision, or take one of: {able}.",
        )


def _trains_tokens(told: Mapping[str, Any], name: str) -> bool:
    return name == "TRAINABLE_TOKENS" or bool(told.get("trainable_token_indices"))


def _lies_in_blocks(model: Any, name: str) -> bool:
    """Tell whether a module whose name ends so holds a weight in blocks."""
    found = [module for own, module in model.named_modules() if own == name or own.endswith(f".{name}")]
    return any(not p.is_floating_point() for module in found for p in module.parameters())
