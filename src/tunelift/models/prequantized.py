"""Models whose files are quantised already: which are loaded, and how; all others are refused before a weight is read.

What is loaded was held to the same model in plain layers (tests/models/test_models_prequantized.py): its outputs, its
gradients, an adapter that comes back. docs/quantized.md has the table, with what was seen of the others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunelift.core.errors import InputError, listed
from tunelift.untrusted.files import tensors_in

if TYPE_CHECKING:
    import torch

    from tunelift.tasks import Task

TAKE_INSTEAD = (
    "Take the model that it was made from, in few bits with model.quantization: int4 or int8 where memory is short, or "
    "its .gguf file with model.quantization: gguf."
)


class Kind(NamedTuple):
    """How a kind of quantised files is loaded.

    `title` is its name here. `widened` ones become plain layers while they are read, by the class of transformers'
    configs of this name; others stay as they lie. `package` is what must be installed for it.
    """

    title: str
    widened: str = ""
    package: str = ""


KINDS = {
    "bitsandbytes_4bit": Kind("bitsandbytes-4bit", package="bitsandbytes"),
    "bitsandbytes_8bit": Kind("bitsandbytes-8bit", package="bitsandbytes"),
    "fp8": Kind("fp8", widened="FineGrainedFP8Config"),
    "mxfp4": Kind("mxfp4", widened="Mxfp4Config"),
    "compressed-tensors": Kind(
        "compressed-tensors", widened="CompressedTensorsConfig", package="compressed_tensors"
    ),
}  # fmt: skip
"""What is loaded, by transformers' name of the method."""

REFUSED = {
    "gptq": "transformers reads it with gptqmodel, which has no built package for CPUs and was not tried",
    "awq": "transformers reads it with gptqmodel, which has no built package for CPUs and was not tried",
    "torchao": "of torchao 0.18 only int8 weights have right gradients on a CPU, and its tensors are unknown to the "
    "products here",
    "quanto": "transformers 5 does not write such files, so that none can be held to what was saved",
    "hqq": "transformers refuses HQQ on a CPU",
    "fbgemm_fp8": "it needs a GPU",
    "eetq": "it needs a GPU",
    "aqlm": "AQLM has no gradient",
}
"""What is known not to do, and why."""

UNTRIED = "nothing here holds what its layers compute, and their gradients, to those of plain layers"

PACKED = "pack-quantized"
"""compressed-tensors' name of whole numbers that are packed into words of 32 bits."""

NARROW = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "I8")
"""Types of numbers that mean nothing without scales."""


def told_of(config: Any) -> Mapping[str, Any] | None:
    """Return what a transformers config says of its files' quantisation, for all of the model or for its text part."""
    parts = (config, config.get_text_config(decoder=True))
    found = next((said for part in parts if (said := getattr(part, "quantization_config", None))), None)
    if found is None or isinstance(found, Mapping):
        return found
    told: Mapping[str, Any] = found.to_dict() if hasattr(found, "to_dict") else {"quant_method": str(found)}
    return told


def check(name: str, config: Any, device: torch.device, task: Task) -> Kind | None:
    """Return how the files of the model `name` are loaded, None where they are not quantised.

    Raises InputError, with the reason, for all that is not known to be loaded rightly.
    """
    told = told_of(config)
    if told is None:
        return None
    method, kind = _method(told), KINDS.get(_method(told))
    reason = _wrong(method, told, device) if kind else REFUSED.get(method, UNTRIED)
    if kind and not kind.widened and (task.has_head or not task.next_token):
        reason = f"they lie in few bits, which is for causal language models alone, not for the task {task.name}"
    if kind is None or reason:
        raise InputError(
            f"The files of {name} are quantised by {method or 'a method that is not named'}, and are not loaded: "
            f"{reason}.",
            fix=TAKE_INSTEAD,
        )
    if kind.package and importlib.util.find_spec(kind.package) is None:
        package = kind.package.replace("_", "-")
        extra = "'tunelift[quantized]'" if package == "bitsandbytes" else package
        raise InputError(
            f"The files of {name} are quantised by {method}, and {package} is not installed.",
            fix=f"pip install {extra}. {TAKE_INSTEAD}",
        )
    return kind


def _method(told: Mapping[str, Any]) -> str:
    """Return the method's name as transformers tells them apart."""
    method = str(getattr(told.get("quant_method"), "value", told.get("quant_method") or ""))
    if method in ("bitsandbytes", "") and (told.get("load_in_4bit") or told.get("load_in_8bit")):
        return "bitsandbytes_4bit" if told.get("load_in_4bit") else "bitsandbytes_8bit"
    return method


def _wrong(method: str, told: Mapping[str, Any], device: torch.device) -> str:
    """Return why files of a kind that is loaded are not, "" where they are."""
    if method.startswith("bitsandbytes") and device.type not in ("cpu", "cuda"):
        return f"bitsandbytes was not tried on {device.type}"
    if method == "bitsandbytes_4bit" and told.get("bnb_4bit_quant_storage", "uint8") != "uint8":
        return f"its bytes are stored as {told['bnb_4bit_quant_storage']} (bnb_4bit_quant_storage), not as uint8"
    if method == "bitsandbytes_8bit" and told.get("llm_int8_has_fp16_weight"):
        return "its weights are in half precision (llm_int8_has_fp16_weight), and rounded at each product"
    return _of_compressed(told) if method == "compressed-tensors" else ""


def _of_compressed(told: Mapping[str, Any]) -> str:
    """Return which layout of compressed-tensors was not tried, "" where all were."""
    groups = told.get("config_groups")
    parts = [part for part in groups.values() if isinstance(part, Mapping)] if isinstance(groups, Mapping) else []
    other = set[str]()
    for part in parts:
        layout, weights = str(part.get("format") or told.get("format")), part.get("weights") or {}
        scaled, packed = str(weights.get("strategy")), layout == PACKED
        other |= {layout} - {"float-quantized", "int-quantized", PACKED}
        other |= {scaled} - ({"channel", "group"} if packed else {"channel"})
        if packed and not other and weights.get("num_bits") not in (4, 8):
            return f"of it packed numbers of {weights.get('num_bits')} bits were not tried"
        if packed and weights.get("actorder") not in (None, False, "static", "weight"):
            return "of it groups with columns in another order (actorder) are not read by transformers"
    return "" if parts and not other else f"of it {listed(sorted(other)) or 'a layout without groups'} was not tried"


def options(kind: Kind, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told of files of this kind."""
    if not kind.widened:
        return {"device_map": {"": device}}
    import transformers

    return {"quantization_config": getattr(transformers, kind.widened)(dequantize=True)}


def bring_to(model: Any, dtype: torch.dtype) -> None:
    """Bring what lies in no few bits to the dtype that was asked for, but what its class keeps in float32.

    transformers 5.23 leaves embeddings, norms and head of files that are quantised as the file has them, whatever dtype
    it is told.
    """
    kept = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(part in name for part in kept):
            parameter.data = parameter.data.to(dtype)


def check_files(name: str, config: Any, files: Sequence[Path]) -> None:
    """Raise InputError for weights that would be taken for other numbers than they are.

    They have a type that means nothing without scales, and the config says nothing of them: transformers would take
    them as they lie. Or a row or column of FP8 ends within a block: transformers 5.23 divides the weight into equal
    parts, by the number of scales, and gives numbers the scales of others.
    """
    told = told_of(config)
    tensors = {key: about for file in files for key, about in tensors_in(file).items()}
    if told is None:
        narrow = [key for key, (kind, _) in tensors.items() if kind in NARROW]
        if narrow:
            raise InputError(
                f"The files of {name} hold numbers in {tensors[narrow[0]][0]} ({listed(narrow, 3)}), and its "
                "config.json has no quantization_config that says what they mean.",
                fix=TAKE_INSTEAD,
            )
        return
    block: Sequence[int] = told.get("weight_block_size") or ()
    if _method(told) != "fp8" or len(block) != 2:
        return
    for key, (_, shape) in tensors.items():
        scales = tensors[f"{key}_scale_inv"][1] if f"{key}_scale_inv" in tensors else ()
        if len(shape) != 2 or len(scales) != 2:
            continue
        for size, count, step in zip(shape, scales, block, strict=True):
            if count > 1 and size % step:
                raise InputError(
                    f"{name}: {key} is {shape[0]} x {shape[1]} in FP8, which is no whole number of blocks of "
                    f"{block[0]} x {block[1]}, and transformers gives its numbers the scales of other blocks.",
                    fix=TAKE_INSTEAD,
                )
