"""Defaults of methods that follow from the base model: which layers are adapted, and sizes that fit their widths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tunelift.adapters.targets import kind, linear_layers

KEYS_VALUES = re.compile(r"(^|_)(w?q?k?v|w?q?k|keys?|values?|c_attn)(_|$)")
"""Names of layers that make keys or values, alone or with the queries in one."""


def scaled_layers(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
    """Return what IA3 scales: what peft knows for the model's type, else keys, values and the feed-forward's inside.

    The latter is what goes into the layer that leads from another width back to the model's. Of a model that has
    neither the outputs of all linear layers are scaled.
    """
    from peft.utils import constants

    known = (
        constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
        constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
    )
    if all(model.config.model_type in table for table in known):
        return {}
    linear = [name for name in linear_layers(model)[0] if any(part.isdigit() for part in name.split("."))]
    scaled = {kind(name) for name in linear if KEYS_VALUES.search(name.rpartition(".")[2].lower())}
    fed_forward = {kind(name) for name in linear if _leads_back(model, name)} - scaled
    if not scaled and not fed_forward:
        return {"target_modules": linear or "all-linear", "feedforward_modules": []}
    at = "|".join(map(re.escape, sorted(fed_forward)))
    return {"target_modules": sorted(scaled | fed_forward), "feedforward_modules": rf".*\.({at})" if at else []}


def _leads_back(model: Any, name: str) -> bool:
    """Tell whether a layer leads from another width back to the model's own, outside of attention."""
    layer, width = model.get_submodule(name), getattr(model.config.get_text_config(), "hidden_size", None)
    inside, outside = (layer.in_features, layer.out_features) if hasattr(layer, "in_features") else (layer.nx, layer.nf)
    return inside != width == outside and "att" not in name.rpartition(".")[0].lower()


def at_known_layers(peft_type: str, **sizes: Any) -> Callable[[Any, int, int], Mapping[str, Any]]:
    """Return defaults that leave the layers to peft where it knows some for the model's type, else take all linear."""

    def keys(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        by_type: Mapping[str, Any] = PEFT_TYPE_TO_TUNER_MAPPING  # whose keys are texts too
        known = model.config.model_type in by_type[peft_type].target_module_mapping
        return {} if known else {"target_modules": "all-linear"}

    return keys
