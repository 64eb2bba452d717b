"""Names, turns and types of a model's tensors as a GGUF file has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunelift.core.errors import InputError
from tunelift.exporting.gguf_config import written_as
from tunelift.models.architectures import Floats, Turn

if TYPE_CHECKING:
    import torch

TYPES = ("f32", "f16", "bf16", "q8_0")
"""What the weights of a file can be rounded to, the finest first."""

WHOLE = (".ffn_gate_inp.weight", "position_embd.weight")
"""Tensors that llama.cpp multiplies in 32 bits, whatever the file's type."""


@dataclass(frozen=True)
class Layout:
    """Which tensor is which: by llama.cpp's `architecture`, whose `turn` is done to it, with the config's values."""

    architecture: str
    turn: Turn
    values: Mapping[str, Any]
    names: Any

    @classmethod
    def of(cls, config: Any) -> Layout:
        """Return that of a model; raise InputError where its type is not written."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        name, kind = written_as(config.model_type)
        arch = next(key for key, known in MODEL_ARCH_NAMES.items() if known == name)
        keys = ("num_attention_heads", "num_key_value_heads")
        values = {key: getattr(config, key, None) for key in keys}
        return cls(name, kind.turn, values, get_tensor_name_map(arch, config.num_hidden_layers))

    def name(self, module: str) -> str:
        """Return the name of a module's tensors without what they end in; raise InputError where there is none."""
        found = self.names.get_name(module)
        if found is None:
            raise InputError(f"{module} has no name in llama.cpp's {self.architecture}.", fix="Export it to merged.")
        return str(found)

    def placed(self, parameter: str, shape: tuple[int, ...]) -> Iterator[tuple[str, slice]]:
        """Yield the name and the rows of each tensor that a parameter becomes: of experts' gates with their ups, two.

        Experts lie in one parameter: (experts, outputs, inputs).
        """
        stem, _, last = parameter.rpartition(".")
        if last in ("weight", "bias"):
            yield f"{self.name(stem)}.{last}", slice(None)
        elif last == "gate_up_proj":
            middle = shape[-2] // 2
            yield f"{self.name(f'{stem}.gate_proj')}.weight", slice(0, middle)
            yield f"{self.name(f'{stem}.up_proj')}.weight", slice(middle, None)
        else:
            yield f"{self.name(parameter)}.weight", slice(None)

    def turned(self, name: str, weights: Floats) -> Floats:
        """Return a tensor as llama.cpp has it."""
        return np.ascontiguousarray(self.turn.write(name, weights, dict(self.values)), dtype=np.float32)

    def tensors(self, parameters: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Floats]]:
        """Yield each tensor by name, in 32 bits, one at a time."""
        for parameter, tensor in parameters.items():
            for name, rows in self.placed(parameter, tuple(tensor.shape)):
                part = tensor.detach() if rows == slice(None) else tensor.detach()[..., rows, :]
                yield name, self.turned(name, part.float().cpu().numpy())


def type_of(name: str, shape: tuple[int, ...], asked: str) -> str:
    """Return the type that a tensor gets in a file of type `asked`: vectors stay whole, blocks of 32 must fit."""
    if len(shape) < 2 or name.endswith(("_norm.weight", *WHOLE)):
        return "f32"
    return "f16" if asked == "q8_0" and shape[-1] % 32 else asked
