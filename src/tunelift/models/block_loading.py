"""Weights brought into blocks of few bits while transformers reads them, a tensor at a time.

transformers' own place for that is a quantizer of a name of ours; it hands over each weight of the file by itself.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunelift.core.errors import InputError
from tunelift.fast.blocks import BlockLinear, narrowed
from tunelift.models import streamed_conversion

METHOD = "tunelift_blocks"


class BlocksConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What a model's config says of itself: in which kind of blocks its linear layers lie."""

    def __init__(self, kind: str = "int8", **_: Any) -> None:
        self.quant_method = METHOD
        self.kind = kind


class _ToBlocks(ConversionOps):  # type: ignore[misc]
    """One weight into the blocks of its layer; what cannot be is told to the quantizer, since an error is not passed on."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def convert(self, input_dict: dict[str, Any], model: Any = None, **_: Any) -> dict[str, Tensor]:
        made = {}
        for name, found in input_dict.items():
            weight = found[0] if isinstance(found, list) else found
            layer = model.get_submodule(name.rpartition(".")[0])
            try:
                made[name] = narrowed(weight, layer.kind)
            except ValueError as error:
                self.problems.append(f"{name} cannot be held in {layer.kind}: {error}.")
                made[name] = torch.zeros_like(layer.weight, device="cpu")
            streamed_conversion.let_go(weight)
        return made


class BlocksQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts layers with weights in blocks in the place of linear ones before a model's weights are read."""

    requires_calibration = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.problems: list[str] = []

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        left = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        put_in(model, self.quantization_config.kind, left)

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        place, _, name = param_name.rpartition(".")
        return name == "weight" and isinstance(model.get_submodule(place), BlockLinear)

    def get_quantize_ops(self) -> Any:
        return _ToBlocks(self.problems)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self.problems:
            raise InputError(*self.problems[:5], fix="Leave model.quantization out.")
        return model

    def is_serializable(self) -> bool:
        return False  # the file that it was read from is what others can read

    @property
    def is_trainable(self) -> bool:
        return True


def put_in(model: Any, kind: str, left: list[str]) -> None:
    """Put layers in blocks in the place of a model's linear ones, but those whose name or a part of it is `left`."""
    dtype = model.dtype
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or any(name == one or f".{one}." in f".{name}." for one in left):
            continue
        parent, _, own = name.rpartition(".")
        with torch.device("meta"):
            bias = None if layer.bias is None else torch.empty_like(layer.bias)
        setattr(model.get_submodule(parent), own, BlockLinear(layer.in_features, layer.out_features, bias, kind, dtype))


@functools.cache
def register() -> None:
    """Tell transformers of it, once."""
    register_quantization_config(METHOD)(BlocksConfig)
    register_quantizer(METHOD)(BlocksQuantizer)


def options(kind: str) -> dict[str, Any]:
    """Return what `from_pretrained` is told."""
    register()
    return {"quantization_config": BlocksConfig(kind)}
