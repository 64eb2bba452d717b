"""A base whose linear layers are held in few bits: NF4 by bitsandbytes, int8, int4 and GGUF's kinds by ourselves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.fast.block_kinds import GGML_TYPES
from tunelift.model_facts.parameters import compute_dtype
from tunelift.models.convert import BLOCKS
from tunelift.tasks import Task
from tunelift.untrusted.files import read_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tunelift.models.precision import Precision

OURS = ("int8", "int4")
"""What is brought into blocks here (fast/blocks.py)."""

NF4 = "nf4"
KINDS = (NF4, *OURS, "gguf")
"""What the config's model.quantization may be, besides "none"."""


def check(kind: str, place: Precision, task: Task, config: Any, folder: Path) -> None:
    """Raise InputError where a base cannot be held so: without bitsandbytes, with a head to be drawn, or twice."""
    if kind == "gguf" and not (folder / BLOCKS).is_file():
        raise InputError(
            "model.quantization is gguf, and the model is no .gguf file.",
            fix="Take int4 or int8, or name a .gguf file.",
        )
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"model.quantization is {kind}, and bitsandbytes is not installed.",
            fix="pip install 'tunelift[quantized]', or take int4, which needs nothing.",
        )
    if not (task.has_head or task.next_token):
        raise InputError(
            f"model.quantization is {kind}, and bases in few bits are for causal language models alone, not for the "
            f"task {task.name}.",
            fix="Leave it out.",
        )
    if task.has_head:
        raise InputError(
            f"model.quantization is {kind}, and {task.name} puts a new head on the model, which would be drawn in few "
            "bits.",
            fix="Leave it out; models with a head are small.",
        )
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"model.quantization is {kind}, and the model's files are quantised already.",
            fix="Leave it out, or take the model in full precision.",
        )
    if place.device.type not in ("cpu", "cuda"):
        raise InputError(f"model.quantization is {kind}, which there is for cpu and cuda alone.")


def options(
    kind: str, dtype: torch.dtype, device: torch.device, folder: Path, known: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """Return what `from_pretrained` is told for linear layers of this kind, the products of which are in `dtype`.

    `known` are weights that were brought into blocks before, by their parameters' names.

    NF4 (Dettmers et al. 2023, arXiv 2305.14314) has scales in float32, 64 numbers to each. Embeddings, norms and the
    head stay as they are: next to the logits an error is not made good by any layer behind, and where the head is tied
    to the embeddings both would have it.
    """
    if kind in OURS:
        from tunelift.models import block_loading

        return block_loading.options(kind, known=known)
    if kind == "gguf":
        from tunelift.models import block_loading

        return block_loading.options(kind, known_kinds(folder))
    from transformers import BitsAndBytesConfig

    how: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": how, "device_map": {"": device}}


def known_kinds(folder: Path) -> dict[str, str]:
    """Return in which kind of blocks each weight of a folder lies; raise InputError for kinds that are none."""
    found = read_object(folder / BLOCKS)
    if not all(kind in GGML_TYPES.values() for kind in found.values()):
        raise InputError(f"{folder / BLOCKS} names kinds of blocks that are not known.", fix="Remove the folder.")
    return {str(name): str(kind) for name, kind in found.items()}


def keep(model: Any, name: str, device: torch.device) -> Any:
    """Return the model on its device, its weights kept as they are; raise InputError for layers computed wrongly.

    On a processor with AVX512-BF16 bitsandbytes 0.50 packs a layer anew at its first call in evaluation mode: then no
    gradient passes it, and saving spoils it. On CPUs it takes other blocks' scales where a row ends within a block.
    All products are in the model's dtype, whatever files that are in four bits already name.
    """
    from tunelift.fast.blocks import in_blocks

    if getattr(model, "is_loaded_in_8bit", False):
        return _widened_in_both_modes(model, device)
    if not getattr(model, "is_loaded_in_4bit", False):
        _say_what_stayed(model, name, in_blocks(model))
        return model.to(device)
    for layer, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        module.support_avx512bf16_for_cpu = False
        state.dtype = module.compute_dtype = compute_dtype(model)
        if module.weight.device.type == "cpu" and state.shape[-1] % state.blocksize:
            raise InputError(
                f"{name}: {layer} has rows of {state.shape[-1]} numbers, and on a CPU bitsandbytes widens only whole "
                f"blocks of {state.blocksize} rightly.",
                fix="Take int4, or leave model.quantization out for this model.",
            )
    return model


def _widened_in_both_modes(model: Any, device: torch.device) -> Any:
    """Let a CPU widen bitsandbytes' eight bits for each product, in evaluation as in training.

    In evaluation it would round what goes in too, by the largest number of each row, and leave out columns that hold
    a large one in any row: base and tuned would be measured as nobody trained them, and a row by those beside it.
    """
    from bitsandbytes import MatmulLtState

    from tunelift.fast.eight_bits import IN_BOTH_MODES

    class Widened(MatmulLtState):  # type: ignore[misc]
        is_training = property(lambda _: True, lambda _, __: None)

    for module in model.modules() if device.type == "cpu" else ():
        if type(getattr(module, "state", None)) is MatmulLtState:
            module.state.__class__ = Widened
            setattr(module.state, IN_BOTH_MODES, compute_dtype(model))
    return model


def _say_what_stayed(model: Any, name: str, layers: dict[str, Any]) -> None:
    """Raise InputError where no layer is in few bits, as where a model has kinds of its own; else say how much is."""
    held = {id(layer.weight): layer.in_features * layer.out_features for layer in layers.values()}
    inside = sum(held.values())
    if not inside:
        raise InputError(
            f"{name} has no linear layers of torch's own, so that nothing of it would be held in few bits.",
            fix="Leave model.quantization out for this model.",
        )
    around = sum(p.numel() for p in model.parameters() if p.is_floating_point())
    size = sum(p.nbytes for p in model.parameters())
    progress.note(
        f"{name}: {inside / (inside + around):.0%} of {(inside + around) / 1e6:,.0f} million numbers are in few bits; "
        f"the weights take {size / 2**20:,.0f} MB"
    )
