"""Writes GGUF files: the model's sizes, its vocabulary and its weights, one tensor in memory at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.core.errors import InputError
from tunelift.exporting.gguf_config import metadata
from tunelift.exporting.gguf_vocabulary import vocabulary
from tunelift.exporting.gguf_weights import Layout, type_of
from tunelift.exporting.k_quants import K_QUANTS
from tunelift.models.architectures import Floats

FLOATS = ("epsilon", "softcapping", "freq_base", "freq_base_swa", "factor", "alpha")
"""How the keys of numbers with a point end; the others are counts."""

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32} | K_QUANTS
"""llama.cpp's numbers for what most tensors of a file are (general.file_type)."""

Tensors = Callable[[], Iterator[tuple[str, Floats]]]


def need_package() -> None:
    """Raise InputError where the package gguf is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError("Writing GGUF needs the package gguf.", fix="Install it: pip install 'tunelift[gguf]'")


def model_metadata(config: Any, tokenizer: Any, ends: list[int], name: str, kind: str) -> dict[str, Any]:
    """Return all metadata of a model's file. `ends` are the ids that end an answer, `kind` the type of its weights."""
    general = {"general.type": "model", "general.name": name, "general.file_type": FILE_TYPES[kind]}
    return metadata(config) | general | {"general.quantization_version": 2} | vocabulary(tokenizer, config, ends)


def write_model(file: Path, model: Any, values: Mapping[str, Any], kind: str) -> dict[str, int]:
    """Write a model whose weights are in memory; return how many tensors got which type."""
    layout, own = Layout.of(model.config), dict(model.named_parameters())  # tied ones appear once
    return write(file, values, lambda: layout.tensors(own), kind)


def write(file: Path, values: Mapping[str, Any], tensors: Tensors, kind: str) -> dict[str, int]:
    """Write one file; `tensors` gives them twice, for the table and for the data. Returns the number of each type."""
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    writer = GGUFWriter(file, values["general.architecture"])
    for key, value in values.items():
        if key != "general.architecture":
            _add(writer, key, value)
    chosen: dict[str, GGMLQuantizationType] = {}
    counted: dict[str, int] = {}
    for name, weights in tensors():
        used = type_of(name, weights.shape, kind)
        chosen[name] = GGMLQuantizationType[used.upper()]
        counted[used] = counted.get(used, 0) + 1
        shape, raw = _stored(weights.shape, chosen[name])
        writer.add_tensor_info(name, shape, np.dtype(raw), int(np.prod(shape)) * np.dtype(raw).itemsize, chosen[name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, weights in tensors():
            writer.write_tensor_data(quantize(weights, chosen[name]))
    finally:
        writer.close()
    return counted


def _stored(shape: tuple[int, ...], kind: Any) -> tuple[tuple[int, ...], Any]:
    """Return the shape and the type of the array that a tensor becomes: bytes, but of floats."""
    from gguf.quants import quant_shape_to_byte_shape

    if kind.name in ("F32", "F16"):
        return shape, np.float32 if kind.name == "F32" else np.float16
    return tuple(quant_shape_to_byte_shape(shape, kind)), np.uint8


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif key.endswith(FLOATS):
        writer.add_float32(key, float(value))
    else:
        writer.add_uint32(key, int(value))
