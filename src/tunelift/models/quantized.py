"""A base that is held in four bits while it is loaded, by bitsandbytes, as transformers and peft know it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from tunelift.core.errors import InputError
from tunelift.tasks import Task

if TYPE_CHECKING:
    import torch

    from tunelift.models.precision import Precision

KINDS = ("nf4",)
"""What the config's model.quantization may be, besides "none"."""


def check(kind: str, place: Precision, task: Task, config: Any) -> None:
    """Raise InputError where a base cannot be held so: without bitsandbytes, with a head to be drawn, or twice."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"model.quantization is {kind}, and bitsandbytes is not installed.", fix="pip install 'tunelift[quantized]'"
        )
    if not (task.has_head or task.next_token):
        raise InputError(
            f"model.quantization is {kind}, and bases in four bits are for causal language models alone.",
            fix="Leave it out.",
        )
    if task.has_head:
        raise InputError(
            f"model.quantization is {kind}, and {task.name} puts a new head on the model, which would be drawn in four "
            "bits.",
            fix="Leave it out; models with a head are small.",
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"model.quantization is {kind}, and the model's files are quantised already.",
            fix="Leave it out, or take the model in full precision.",
        )
    if place.device.type not in ("cpu", "cuda"):
        raise InputError(f"model.quantization is {kind}, which bitsandbytes has for cpu and cuda alone.")


def options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told for weights in NF4 (Dettmers et al. 2023, arXiv 2305.14314).

    Scales are in float32, 64 numbers to each; products are in `dtype`. Embeddings, norms and the head stay as they are.
    """
    from transformers import BitsAndBytesConfig

    how: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": how, "device_map": {"": device}}


def keep(model: Any, name: str) -> None:
    """Let evaluating leave the weights as they are; raise InputError for layers that would be computed wrongly.

    On a processor with AVX512-BF16 bitsandbytes 0.50 packs a layer anew at its first call in evaluation mode: then no
    gradient passes it, and saving spoils it. On CPUs it takes other blocks' scales where a row ends within a block.
    """
    for layer, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        module.support_avx512bf16_for_cpu = False
        if module.weight.device.type == "cpu" and state.shape[-1] % state.blocksize:
            raise InputError(
                f"{name}: {layer} has rows of {state.shape[-1]} numbers, and on a CPU bitsandbytes widens only whole "
                f"blocks of {state.blocksize} rightly.",
                fix="Leave model.quantization out for this model.",
            )
