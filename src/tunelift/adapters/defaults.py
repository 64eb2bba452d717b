"""Defaults of methods that follow from the base model: which layers are adapted, and sizes that fit their widths."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.adapters.targets import HEADS, kind, linear_layers
from tunelift.core.errors import InputError

Sizes = Mapping[str, Any] | Callable[["Widths"], Mapping[str, Any]]

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


def head_alone(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
    """Return what adapts no layer and trains all modules outside of the model's body, saved whole.

    peft's name for no layer is a constant of its own. Raises InputError where the body is no module of its own.
    """
    from peft.utils.constants import DUMMY_TARGET_MODULES

    parts = outside_body(model)
    if len(parts) == len(owners(model)):
        raise InputError(f"adapter.method: of a {type(model).__name__} nobody can tell which part is the head.")
    return {"target_modules": DUMMY_TARGET_MODULES, "modules_to_save": list(parts)}


def owners(model: Any) -> list[str]:
    """Return the names of the modules that hold parameters."""
    return sorted({name.rpartition(".")[0] for name, _ in model.named_parameters()})


def outside_body(model: Any) -> list[str]:
    """Return the modules that hold parameters and are no part of the body that transformers puts under a head."""
    if not hasattr(model, model.base_model_prefix):  # as T5 with a head for question answering: it has no body
        return [name for name in owners(model) if {*HEADS} & {*name.split(".")}]
    return [name for name in owners(model) if not f"{name}.".startswith(f"{model.base_model_prefix}.")]


def norms(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
    """Return the norms that peft knows for the model's type, else all that are called so."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING as KNOWN

    if model.config.model_type in KNOWN:
        return {}
    return {"target_modules": sorted({kind(name) for name, part in model.named_modules() if _is_norm(part)})}


def _is_norm(module: Any) -> bool:
    return type(module).__name__.endswith("Norm") and any(True for _ in module.parameters(recurse=False))


@dataclass(frozen=True, slots=True)
class Widths:
    """What fits all linear layers of a model but its head, whichever of them are adapted."""

    shapes: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, model: Any) -> Widths:
        """Measure the layers of a model."""
        layers = [model.get_submodule(name) for name in linear_layers(model)[0]]
        return cls(
            [(la.in_features, la.out_features) if hasattr(la, "in_features") else (la.nx, la.nf) for la in layers]
        )

    def block(self, most: int) -> int:
        """Return the largest size of blocks, up to `most`, that divides what every layer takes and gives."""
        common = math.gcd(*(width for shape in self.shapes for width in shape))
        return max(size for size in range(1, most + 1) if common % size == 0)

    def block_taken(self, most: int) -> int:
        """Return the same for what every layer takes."""
        common = math.gcd(*(taken for taken, _ in self.shapes))
        return max(size for size in range(1, most + 1) if common % size == 0)

    def rank(self, most: int) -> int:
        """Return the largest rank, up to `most`, at which two factors hold no more numbers than any layer."""
        return max(1, min(most, *(taken * given // (taken + given) for taken, given in self.shapes)))

    def full_rank(self, most: int) -> int:
        """Return the largest rank, up to `most`, that every layer can have."""
        return min(most, *map(min, self.shapes))

    def numbers(self, most: int) -> int:
        """Return how many numbers, up to `most`, every layer has."""
        return min(most, *(taken * given for taken, given in self.shapes))


def at_known_layers(peft_type: str, sizes: Sizes) -> Callable[[Any, int, int], Mapping[str, Any]]:
    """Return defaults that leave the layers to peft where it knows some for the model's type, else take all linear.

    `sizes` are further keys, or a function that makes them of the widths of the model's layers.
    """

    def keys(model: Any, _rows: int, _steps: int) -> Mapping[str, Any]:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        by_type: Mapping[str, Any] = PEFT_TYPE_TO_TUNER_MAPPING  # whose keys are texts too
        known = model.config.model_type in by_type[peft_type].target_module_mapping
        made = sizes(Widths.of(model)) if callable(sizes) else sizes
        return {**({} if known else {"target_modules": "all-linear"}), **made}

    return keys
