"""Weights brought into blocks of few bits while transformers reads them, a tensor at a time.

transformers' own place for that is a quantizer of a name of ours; it hands over each weight of the file by itself.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tunelift.core.errors import InputError
from tunelift.fast import allocator
from tunelift.fast.block_kinds import GGML_TYPES
from tunelift.fast.blocks import BlockEmbedding, BlockLinear, narrowed
from tunelift.model_facts.parameters import compute_dtype
from tunelift.models import streamed_conversion

METHOD = "tunelift_blocks"


class BlocksConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """In which kind of blocks linear layers are to lie; or the `kinds` of those weights whose blocks the file has.

    `known` are weights that were brought into blocks before, by their parameters' names.
    """

    def __init__(self, kind: str = "int8", kinds: dict[str, str] | None = None, **_: Any) -> None:
        self.quant_method = METHOD
        self.kind, self.kinds = kind, kinds or {}
        self.known: Mapping[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> BlocksConfig:
        """Return a copy with the same `known`, which are mapped from a file: copies of them would be memory."""
        made = copy.copy(self)
        made.kinds = dict(self.kinds)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return what of it is of JSON."""
        return {"quant_method": self.quant_method, "kind": self.kind, "kinds": dict(self.kinds)}


class _ToBlocks(ConversionOps):  # type: ignore[misc]
    """One weight into the blocks of its layer; what cannot be is told as a problem, since an error is not passed on."""

    def __init__(self, problems: list[str], known: Mapping[str, Tensor]) -> None:
        self.problems, self.known = problems, known

    def convert(self, input_dict: dict[str, Any], model: Any = None, **_: Any) -> dict[str, Tensor]:
        made = {}
        for name, found in input_dict.items():
            weight = found[0] if isinstance(found, list) else found
            layer = model.get_submodule(name.rpartition(".")[0])
            known = self.known.get(name)
            if known is not None and known.shape == layer.weight.shape:
                made[name] = known
                streamed_conversion.let_go(weight)
                allocator.give_back_freed_memory()  # of the wide numbers before it, which nobody looked at
                continue
            if layer.kind in GGML_TYPES.values():  # bytes, which another dtype has held exactly if they came in one
                made[name] = weight.to(torch.uint8)
                continue
            try:
                made[name] = narrowed(weight, layer.kind)
            except ValueError as error:
                self.problems.append(f"{name} cannot be held in {layer.kind}: {error}.")
                made[name] = torch.zeros_like(layer.weight, device="cpu")
            streamed_conversion.let_go(weight)
            allocator.give_back_freed_memory()  # between the blocks lie holes, where the wide numbers of pieces were
        return made


class BlocksQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts layers with weights in blocks in the place of linear ones before a model's weights are read."""

    requires_calibration = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.problems: list[str] = []

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        if self.quantization_config.kinds:
            put_as_it_lies(model, self.quantization_config.kinds)
            return
        left = self.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
        put_in(model, self.quantization_config.kind, left)

    def param_needs_quantization(self, model: Any, param_name: str, **more: Any) -> bool:
        place, _, name = param_name.rpartition(".")
        return name == "weight" and isinstance(model.get_submodule(place), (BlockLinear, BlockEmbedding))

    def get_quantize_ops(self) -> Any:
        return _ToBlocks(self.problems, self.quantization_config.known)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        self.quantization_config.known = {}  # which the model has, for as long as it wants them
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
    dtype = compute_dtype(model)
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or any(name == one or f".{one}." in f".{name}." for one in left):
            continue
        _replace(model, name, _linear(layer, kind, dtype))


def put_as_it_lies(model: Any, kinds: dict[str, str]) -> None:
    """Put what takes blocks in the place of each layer whose weight lies in them, embeddings and a tied head too."""
    dtype, embeddings, head = compute_dtype(model), model.get_input_embeddings(), model.get_output_embeddings()
    named = {module: name for name, module in model.named_modules()}
    kinds = {name.removesuffix(".weight"): kind for name, kind in kinds.items()}
    if named[head] not in kinds and named[embeddings] in kinds and model.config.get_text_config().tie_word_embeddings:
        kinds[named[head]] = kinds[named[embeddings]]
    for name, kind in kinds.items():
        layer = model.get_submodule(name)
        if type(layer) is nn.Linear:
            _replace(model, name, _linear(layer, kind, dtype))
        elif layer is embeddings and (type(layer) is nn.Embedding or hasattr(layer, "scalar_embed_scale")):
            _replace(model, name, BlockEmbedding(layer, kind, dtype))
        else:
            raise InputError(
                f"{name} is a {type(layer).__name__}, which cannot be used as it lies in the file.",
                fix="Leave model.quantization out: the weights are then dequantised.",
            )


def _linear(layer: nn.Linear, kind: str, dtype: torch.dtype) -> BlockLinear:
    bias = None if layer.bias is None else torch.empty_like(layer.bias, device="meta")
    return BlockLinear(layer.in_features, layer.out_features, bias, kind, dtype)


def _replace(model: Any, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


@functools.cache
def register() -> None:
    """Tell transformers of it, once."""
    register_quantization_config(METHOD)(BlocksConfig)
    register_quantizer(METHOD)(BlocksQuantizer)


def options(
    kind: str, kinds: dict[str, str] | None = None, known: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Return what `from_pretrained` is told.

    `kinds` are those of weights whose blocks the file has, and `known` weights in blocks, by name.
    """
    register()
    told = BlocksConfig(kind, kinds)
    told.known = known or {}
    return {"quantization_config": told}
