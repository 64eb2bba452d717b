"""LoRA of other programs as it lies in their files: a folder of mlx-lm, or a GGUF file of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.adapters.loading import PREFIX
from tunelift.adapters.store import read_adapter_config
from tunelift.adapters.torchtune import is_turned, of_torchtune
from tunelift.core.errors import InputError
from tunelift.exporting.gguf_weights import Layout
from tunelift.exporting.to_mlx import CONFIG, WEIGHTS
from tunelift.models.architectures import ROTATED, Floats
from tunelift.models.mlx_names import from_mlx
from tunelift.run_files.layout import ADAPTER_WEIGHTS
from tunelift.untrusted import files as untrusted
from tunelift.untrusted.gguf import GgufFile, read

MLX, GGUF, TORCHTUNE = "mlx", "lora-gguf", "torchtune"
PLAIN = ("F32", "F16", "BF16")
"""Types of GGUF tensors that hold numbers, not blocks of them."""


@dataclass(frozen=True)
class Foreign:
    """An adapter by the names that transformers has for layers: A (rank, inputs), B (outputs, rank), of embeddings
    (rank, vocabulary) and (outputs, rank); `scales` multiply the product. With `magnitudes` it is DoRA.
    """

    of: str
    factors: Mapping[str, tuple[Floats, Floats]]
    scales: Mapping[str, float]
    magnitudes: Mapping[str, Floats] = field(default_factory=dict)


def kind_of(path: Path) -> str:
    """Return which program wrote an adapter; raise InputError where it is none that is imported."""
    if path.is_file() and path.suffix == ".gguf":
        return GGUF
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return MLX
    config = untrusted.read_object(path / CONFIG) if (path / CONFIG).is_file() else {}
    if of_torchtune(path, config):
        return TORCHTUNE
    if "peft_type" in config:
        raise _stock(path)
    raise InputError(
        f"{path} is no adapter that is imported.",
        fix=f"Imported are folders of mlx-lm ({CONFIG} with {WEIGHTS}), and LoRA as .gguf. Folders of peft, Unsloth, "
        "LLaMA-Factory, Axolotl and torchtune that have adapter_model.safetensors are taken as they are.",
    )


def _stock(path: Path) -> InputError:
    return InputError(
        f"{path} is in stock peft's layout already.", fix="Use it as it is: tunelift compare --adapter FOLDER."
    )


def read_foreign(path: Path, model: Any) -> Foreign:
    """Read an adapter for a base; raise InputError, with every reason, for what is no plain LoRA or DoRA on it."""
    return {MLX: _of_mlx, GGUF: _of_gguf, TORCHTUNE: _of_torchtune}[kind_of(path)](path, model)


def _of_mlx(folder: Path, model: Any) -> Foreign:
    from safetensors.numpy import load_file

    config = untrusted.read_object(folder / CONFIG)
    kind = config.get("fine_tune_type", "lora")
    settings = config.get("lora_parameters")
    if kind not in ("lora", "dora") or not isinstance(settings, dict):
        raise InputError(
            f"{folder} holds mlx-lm's {kind}, which is no LoRA.", fix="Fuse it there (mlx_lm.fuse), and use the model."
        )
    scale = settings.get("scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not np.isfinite(scale):
        raise InputError(f"{folder / CONFIG}: lora_parameters.scale is {scale!r}, where a number is needed.")
    untrusted.safetensors_header(folder / WEIGHTS)
    held = {name: np.asarray(one, np.float32) for name, one in load_file(folder / WEIGHTS).items()}
    sides = _sides(held, {"lora_a": ".lora_a", "lora_b": ".lora_b", "m": ".m"}, folder / WEIGHTS)
    factors, magnitudes = dict[str, tuple[Floats, Floats]](), dict[str, Floats]()
    for name, side in sides.items():
        module = from_mlx(name, model.config.model_type)
        factors[module] = (side["lora_a"].T, side["lora_b"].T)
        if "m" in side:
            magnitudes[module] = side["m"]
    if (kind == "dora") != (magnitudes.keys() == factors.keys()):
        raise InputError(f"{folder} says {kind}, and has magnitudes of {len(magnitudes)} of {len(factors)} layers.")
    return Foreign(MLX, factors, dict.fromkeys(factors, float(scale)), magnitudes)


def _of_gguf(path: Path, model: Any) -> Foreign:
    file, layout = read(path), Layout.of(model.config)
    said = {key: file.metadata.get(key) for key in ("general.type", "adapter.type", "general.architecture")}
    if said != {"general.type": "adapter", "adapter.type": "lora", "general.architecture": layout.architecture}:
        told = ", ".join(f"{key} is {value!r}" for key, value in said.items())
        raise InputError(
            f"{path} is no LoRA of llama.cpp on a {layout.architecture}: {told}.", fix="Name its own base with --model."
        )
    if file.metadata.get("adapter.alora.invocation_tokens") is not None:
        raise InputError(f"{path} acts from some tokens on (aLoRA), which is not imported.")
    alpha = file.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or not np.isfinite(alpha):
        raise InputError(f"{path}: adapter.lora.alpha is {alpha!r}, where a number is needed.")
    held = {name: _numbers(file, name) for name in file.tensors}
    modules = {layout.names.get_name(name): name for name, _ in model.named_modules()}
    factors, scales = dict[str, tuple[Floats, Floats]](), dict[str, float]()
    for name, side in _sides(held, {"a": ".weight.lora_a", "b": ".weight.lora_b"}, path).items():
        if modules.get(name) is None:
            raise InputError(f"{path}: {name} is no layer of this base.", fix="Name its own base with --model.")
        module, b = modules[name], side["b"]
        if layout.turn.of_rows:
            b = layout.turn.read(f"{name}.weight", b, dict(layout.values))
        looked_up = model.get_submodule(module) is model.get_input_embeddings()
        factors[module] = (side["a"].T if looked_up else side["a"], b)
        scales[module] = alpha / b.shape[1] if alpha else 1.0
    return Foreign(GGUF, factors, scales)


def _of_torchtune(folder: Path, model: Any) -> Foreign:
    from safetensors.numpy import load_file

    config = read_adapter_config(folder)
    if not is_turned(folder, config, model.config.model_type):
        raise _stock(folder)
    held = {name: np.asarray(one, np.float32) for name, one in load_file(folder / ADAPTER_WEIGHTS).items()}
    values = {name: getattr(model.config, name) for name in ("num_attention_heads", "num_key_value_heads")}
    factors, turned = dict[str, tuple[Floats, Floats]](), {"q_proj": ".attn_q.", "k_proj": ".attn_k."}
    for name, side in _sides(held, {"a": ".lora_A.weight", "b": ".lora_B.weight"}, folder).items():
        there = turned.get(name.rpartition(".")[2], name)
        factors[name.removeprefix(PREFIX)] = (side["a"], ROTATED.write(there, side["b"], values))
    return Foreign(TORCHTUNE, factors, dict.fromkeys(factors, config["lora_alpha"] / config["r"]))


def _numbers(file: GgufFile, name: str) -> Floats:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor = file.tensors[name]
    used = GGMLQuantizationType(tensor.type)
    if used.name not in PLAIN or len(tensor.shape) != 2:
        raise InputError(
            f"{file.path}: {name} is {used.name} of shape {tensor.shape}, where a matrix of floats is needed."
        )
    found: Floats = np.asarray(dequantize(file.blocks(name), used), np.float32).reshape(tensor.shape)
    return found


def _sides(held: Mapping[str, Floats], ends: Mapping[str, str], where: Path) -> dict[str, dict[str, Floats]]:
    """Sort tensors by layer and side; raise InputError for one that is no side, and for a layer that lacks one."""
    found: dict[str, dict[str, Floats]] = {}
    for name, values in held.items():
        side = next((side for side, end in ends.items() if name.endswith(end)), None)
        if side is None:
            raise InputError(
                f"{where}: the tensor {name} is no factor of a LoRA.",
                fix="Norms, biases and whole layers are not imported: the program it is for may leave them out too.",
            )
        found.setdefault(name.removesuffix(ends[side]), {})[side] = values
    a, b = list(ends)[:2]
    for name, sides in found.items():
        if not {a, b} <= sides.keys() or any(one.ndim != 2 for one in (sides[a], sides[b])):
            raise InputError(f"{where}: {name} has not both factors as matrices.")
    if not found:
        raise InputError(f"{where} holds no tensors.")
    return found
