"""A GGUF file becomes, once, a folder that stock transformers loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.core import cache, files
from tunelift.core.errors import InputError, listed
from tunelift.core.progress import note
from tunelift.fast.block_kinds import GGML_TYPES
from tunelift.models import tokenizers
from tunelift.models.architectures import architecture, config_values, ends_of_turns
from tunelift.untrusted import gate
from tunelift.untrusted.files import INDEX, SINGLE
from tunelift.untrusted.gguf import GgufFile, read

if TYPE_CHECKING:
    import torch

VERSION = 2
"""Part of the folder's name; raised when the same file would be converted differently."""

EXACT_BYTES = 2 * 2**30
"""Up to this size weights are stored in float32, which holds dequantised values exactly; larger ones in bfloat16."""

SHARD_BYTES = 4 * 2**30

BLOCKS = "blocks.json"
"""In which kind of blocks each weight lies, in the folder of a model whose weights do."""


def converted(name: str, sha256: str, source: Path, *, narrow: bool = False) -> Path:
    """Return the folder of the converted model, converting `source` (a GGUF file with that hash) if it is not there.

    In a `narrow` one weights lie in the file's own blocks, where it has such, and BLOCKS says in which. Raises
    InputError for a file that is broken or holds what cannot be converted.
    """
    from filelock import FileLock

    folder = place(name, sha256, narrow=narrow)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The cache folder {folder.parent} cannot be made: {error}.", fix="Set TUNELIFT_CACHE to one that can."
        ) from error
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        files.recover_folder(folder)
        if not folder.exists():
            note(f"Converting {name} once (kept in {folder}) ...")
            gguf = read(source)
            files.write_folder(folder, lambda staging: write(gguf, staging, narrow=narrow))
    return folder


def place(name: str, sha256: str, *, narrow: bool = False) -> Path:
    """Return where the converted model of this name and hash lies, or would."""
    return cache.folder() / "models" / f"{name}-{sha256[:16]}-v{VERSION}{'-blocks' if narrow else ''}"


def write(gguf: GgufFile, folder: Path, *, narrow: bool = False) -> None:
    """Write config.json, generation_config.json, the safetensors and the tokenizer into `folder`."""
    import torch
    from transformers import AutoConfig, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    gate.check_gguf(gguf)
    _, kind = architecture(gguf)
    values = config_values(gguf)
    try:
        config = AutoConfig.for_model(kind.model_type, **values)
        with torch.device("meta"):
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{gguf.path} states sizes that make no {kind.model_type} model: {error}") from error
    tensors = _layout(gguf, model)
    elements = sum(torch.Size(gguf.tensors[name].shape).numel() for name in tensors)
    dtype = torch.float32 if 4 * elements <= EXACT_BYTES else torch.bfloat16
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generation = GenerationConfig.from_model_config(config)
    ends = ends_of_turns(gguf)
    if len(ends) > 1:
        generation.eos_token_id = ends
    generation.save_pretrained(folder)
    if narrow:
        _write_blocks(gguf, tensors, folder)
    else:
        _write_weights(gguf, tensors, dtype, folder)
    tokenizers.write(gguf, folder)


def _layout(gguf: GgufFile, model: Any) -> dict[str, str]:
    """Return {name in the GGUF: name in transformers}, with every tensor and every parameter accounted for."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == gguf.metadata["general.architecture"])
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    layout, problems = {}, []
    for parameter, weights in model.named_parameters():  # tied ones appear once
        stem, _, suffix = parameter.rpartition(".")
        theirs = f"{names.get_name(stem)}.{suffix}"
        layout[theirs] = parameter
        if theirs not in gguf.tensors:
            problems.append(f"{gguf.path} lacks the tensor {theirs} ({parameter}).")
        elif sorted(gguf.tensors[theirs].shape) != sorted(weights.shape):
            problems.append(
                f"{gguf.path}: {theirs} has the shape {gguf.tensors[theirs].shape}, not {tuple(weights.shape)}."
            )
    if extra := set(gguf.tensors) - set(layout):
        problems.append(
            f"{gguf.path} holds tensors that transformers' {model.config.model_type} lacks: {listed(sorted(extra))}."
        )
    if problems:
        raise InputError(*problems[:20], fix="This file cannot be converted.")
    return layout


def _write_weights(gguf: GgufFile, layout: dict[str, str], dtype: torch.dtype, folder: Path) -> None:
    """Dequantise, and write one safetensors file, or several with an index so that only one is in memory at a time."""
    from safetensors.torch import save_file

    shards = list(_shards(gguf, layout, dtype.itemsize))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {layout[theirs]: _dequantised(gguf, theirs).to(dtype) for theirs in shard}
        save_file(weights, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, name)
    if len(shards) > 1:
        files.write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})


def _write_blocks(gguf: GgufFile, layout: dict[str, str], folder: Path) -> None:
    """Write the blocks of the file as they are, the rest in float32, in one safetensors file, and what lies how."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    _, kind = architecture(gguf)
    if kind.model_type == "gpt2":
        raise InputError(
            f"{gguf.path}: transformers' GPT-2 has its weights the other way round, and not as they lie in the file.",
            fix="Leave model.quantization out: the weights are then dequantised.",
        )
    weights, kinds = dict[str, torch.Tensor](), dict[str, str]()
    for theirs, ours in layout.items():
        layout_of = GGML_TYPES.get(gguf.tensors[theirs].type)
        if layout_of is None or len(gguf.tensors[theirs].shape) != 2:
            weights[ours] = _dequantised(gguf, theirs)
            continue
        blocks: Any = gguf.blocks(theirs)
        rows = kind.turn.read(theirs, blocks, config_values(gguf))  # which moves whole rows at most
        weights[ours] = torch.from_numpy(np.ascontiguousarray(rows).copy())
        kinds[ours] = layout_of
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})
    files.write_json(folder / BLOCKS, kinds)


def _shards(gguf: GgufFile, layout: dict[str, str], item_bytes: int) -> Iterator[list[str]]:
    import torch

    shard: list[str] = []
    filled = 0
    for name in layout:
        size = torch.Size(gguf.tensors[name].shape).numel() * item_bytes
        if shard and filled + size > SHARD_BYTES:
            yield shard
            shard, filled = [], 0
        shard.append(name)
        filled += size
    yield shard


def _dequantised(gguf: GgufFile, name: str) -> torch.Tensor:
    import numpy as np
    import torch
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    _, kind = architecture(gguf)
    try:
        weights = dequantize(gguf.blocks(name), GGMLQuantizationType(gguf.tensors[name].type))
    except NotImplementedError as error:
        raise InputError(f"{gguf.path}: {name} is stored in a type that cannot be dequantised yet: {error}.") from error
    changed = kind.turn.read(name, weights.reshape(gguf.tensors[name].shape), config_values(gguf))
    return torch.from_numpy(np.ascontiguousarray(changed, dtype=np.float32).copy())
