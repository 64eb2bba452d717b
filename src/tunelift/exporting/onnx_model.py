"""A head with its model as an ONNX file, and that file as a model that can be measured as any other."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tunelift.core import progress
from tunelift.core.errors import TuneliftError
from tunelift.exporting.onnx_scores import numbers_of, session_of
from tunelift.fast.undo import without_cache
from tunelift.model_facts.anatomy import tells_segments
from tunelift.models.loader import quiet

INPUTS, SEGMENTS = ("input_ids", "attention_mask"), "token_type_ids"
HEAVY = 1_800_000_000
"""Bytes of weights that an ONNX file holds itself: protobuf ends at 2 GiB, and more lies beside it."""


class Asked(torch.nn.Module):
    """A model that takes tensors (B, T) by place and gives the logits of its head, whichever it has."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.more = model, without_cache(model)
        self.inputs = [*INPUTS, *([SEGMENTS] if tells_segments(model) else [])]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, given, strict=True)), **self.more)
        return tuple(output[name] for name in self.names(output))

    @staticmethod
    def names(output: Mapping[str, Any]) -> list[str]:
        """Return what a head's numbers are called."""
        return [name for name in output if name.endswith("logits")]


@torch.no_grad()
def write(file: Path, model: Any) -> None:
    """Write a model in evaluation mode as ONNX, for batches and rows of any length; raise TuneliftError if torch won't.

    Of an encoder that tells two texts apart the token types are an input too.
    """
    asked = Asked(model)
    given = tuple(torch.ones(2, 5, dtype=torch.long) for _ in asked.inputs)
    outputs = asked.names(model(**dict(zip(asked.inputs, given, strict=True)), **asked.more))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    heavy = sum(4 * one.numel() for one in model.parameters()) > HEAVY
    try:
        with quiet(), progress.silenced(), _unheard():
            torch.onnx.export(
                asked, given, file, dynamo=True, verbose=False, external_data=heavy,
                input_names=asked.inputs, output_names=outputs, dynamic_shapes=(tuple(free for _ in given),),
            )  # fmt: skip
    except Exception as error:  # dozens of unrelated types, of what torch cannot trace and onnxscript cannot write
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise TuneliftError(
            f"torch.onnx does not export this {type(model).__name__}: {lines[0][:300]}",
            fix="Nothing was kept. Stock transformers reads it: --to merged.",
        ) from error


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what torch says of packages that no model here needs, and of its own functions, from a reader."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def rounded(file: Path, exact: Path) -> None:
    """Write the weights of matrix products in eight bits, as ONNX Runtime does without seeing any data."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(exact, file, weight_type=QuantType.QInt8)


def held(folder: Path) -> dict[str, Any]:
    """Return the bytes of a folder with model.onnx, and how many tensors, and numbers of them, have which type.

    Scales and zeros of rounded weights are not counted, nor what is no weight.
    """
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    packed = {node.input[1]: node for node in graph.node if node.op_type == PACKED}
    beside = {name for node in packed.values() for name in node.input[2:]}
    stems = [one.name.removesuffix(IN_EIGHT) for one in graph.initializer if one.name.endswith(IN_EIGHT)]
    beside |= {f"{stem}{end}" for stem in stems for end in ("_scale", "_zero_point")}
    tensors, numbers = dict[str, int](), dict[str, int]()
    for one in graph.initializer:
        if one.name in beside or _type_named(one.data_type) in NO_WEIGHTS:
            continue
        if one.name in packed:
            said = {each.name: each.i for each in packed[one.name].attribute}
            kind, size = f"int{said['bits']}", said["N"] * said["K"]
        else:
            kind, size = _type_named(one.data_type), math.prod(one.dims)
        tensors[kind], numbers[kind] = tensors.get(kind, 0) + 1, numbers.get(kind, 0) + size
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"bytes": taken, "tensors": tensors, "numbers": numbers}


PACKED, IN_EIGHT = "MatMulNBits", "_quantized"
"""ONNX Runtime's product with weights in few bits, and how a name ends of those that `quantize_dynamic` rounds."""

NO_WEIGHTS = ("int64", "int32", "bool")
"""Types of shapes, places and masks."""


def _type_named(number: int) -> str:
    from onnx import TensorProto

    name: str = TensorProto.DataType.Name(number).lower()
    return {"float": "f32", "float16": "f16", "bfloat16": "bf16"}.get(name, name)


class OnnxModel(torch.nn.Module):
    """An ONNX file in ONNX Runtime, called as the model that it was made of; `like` says the config of that."""

    def __init__(self, file: Path, like: Any) -> None:
        super().__init__()
        self.session = session_of(str(file), torch.get_num_threads())
        self.config, self.name_or_path, self.base_model_prefix = like.config, str(file), ""
        self.like = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.takes = [one.name for one in self.session.get_inputs()]

    @property
    def device(self) -> torch.device:
        return self.like.device

    def get_input_embeddings(self) -> None:
        """Say that nothing in it can be reached."""

    get_output_embeddings = get_input_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, SEGMENTS: token_type_ids}
        if token_type_ids is None:
            given[SEGMENTS] = torch.zeros_like(input_ids)
        found = self.session.run(None, {name: given[name].numpy() for name in self.takes})  # type: ignore[union-attr]
        return SimpleNamespace(
            **{one.name: torch.from_numpy(value) for one, value in zip(self.session.get_outputs(), found, strict=True)}
        )


def in_a_batch(
    model: Any, rows: Sequence[Sequence[int]], segments: Sequence[Any], pad: int, beyond: int
) -> list[list[float]]:
    """Return what a model gives for rows of ids in one batch, padded on the right, as `onnx_scores.numbers_of` does."""
    return numbers_of(_Here(model), rows, segments, pad, beyond)


class _Here:
    """A model of torch, asked as a session of ONNX Runtime is."""

    def __init__(self, model: Any) -> None:
        self.asked = Asked(model)
        self.outputs: list[str] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.asked.inputs]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, _: None, given: Mapping[str, Any]) -> list[Any]:
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(value) for name, value in given.items()}
            output = self.asked.model(**inputs, **self.asked.more)
        self.outputs = Asked.names(output)
        return [output[name].numpy() for name in self.outputs]
