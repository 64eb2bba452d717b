"""A LoRA as GGUF: the scale is in B, so that rsLoRA and alpha patterns act as they were trained.

llama.cpp multiplies by `adapter.lora.alpha / rank`, one alpha for all layers; where that is 0, by nothing. What its
loader leaves out in silence (trained norms), or cannot hold, is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tunelift.core.errors import InputError, listed
from tunelift.exporting.gguf_file import write
from tunelift.exporting.gguf_weights import Layout
from tunelift.model_facts.anatomy import base_of
from tunelift.models.architectures import Floats

MERGED = "Export it with --to gguf: merged into the base, it is as it was trained."


def check_lora(adapted: Any) -> None:
    """Raise InputError, with every reason, for an adapter that llama.cpp has no place for."""
    config = adapted.peft_config[adapted.active_adapter]
    if config.peft_type != "LORA":
        raise InputError(f"The adapter is of peft's {config.peft_type.value}, and llama.cpp loads LoRA.", fix=MERGED)
    found = {
        "DoRA (use_dora)": config.use_dora,
        "biases in LoRA's factors (lora_bias)": config.lora_bias,
        f"trained biases of the base (bias={config.bias})": config.bias != "none",
        f"modules trained whole ({listed(config.modules_to_save or [])})": config.modules_to_save,
        "trained tokens (trainable_token_indices)": config.trainable_token_indices,
        "parameters that are no layers (target_parameters)": config.target_parameters,
        "repeated layers (layer_replication)": config.layer_replication,
        "tokens that it acts from (aLoRA)": config.alora_invocation_tokens,
    }
    if problems := [f"llama.cpp's LoRA has no {what}." for what, there in found.items() if there]:
        raise InputError(*problems, fix=MERGED)
    Layout.of(base_of(adapted).config)
    for module, _, _ in _factors(adapted):
        if "embed" in module or module.endswith(("wte", "lm_head")):
            _check_tied(adapted, module)


def _check_tied(adapted: Any, module: str) -> None:
    if getattr(base_of(adapted).config, "tie_word_embeddings", False):
        raise InputError(
            f"The adapter is on {module}, which shares its weight with the head or the embeddings: in llama.cpp both "
            "are one tensor.",
            fix=MERGED,
        )


def write_lora(file: Path, adapted: Any, name: str, kind: str) -> int:
    """Write the active adapter; return how many layers it changes. `kind` is the type of its matrices."""
    layout = Layout.of(base_of(adapted).config)
    values = {
        "general.architecture": layout.architecture,
        "general.type": "adapter",
        "general.name": name,
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
    }
    write(file, values, lambda: _tensors(adapted, layout), kind)
    return sum(1 for _ in _factors(adapted))


def _tensors(adapted: Any, layout: Layout) -> Iterator[tuple[str, Floats]]:
    for module, first, second in _factors(adapted):
        name = f"{layout.name(module)}.weight"
        yield f"{name}.lora_a", first
        yield f"{name}.lora_b", layout.turned(name, second) if layout.turn.of_rows else second


def _factors(adapted: Any) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield the name of each layer with A, (rank, inputs), and B with its scale, (outputs, rank).

    Of embeddings A is (vocabulary, rank), as llama.cpp looks rows up in it.
    """
    from peft.tuners.lora.layer import Embedding, Linear, LoraLayer

    active = adapted.active_adapter
    for path, layer in base_of(adapted).named_modules():
        if not isinstance(layer, LoraLayer) or active not in layer.scaling:
            continue
        if isinstance(layer, Embedding):
            a, b = layer.lora_embedding_A[active].T, layer.lora_embedding_B[active]
        elif isinstance(layer, Linear):
            a, b = layer.lora_A[active].weight, layer.lora_B[active].weight
        else:
            raise InputError(f"{path} is a {type(layer).__name__}, for which GGUF has no LoRA.", fix=MERGED)
        yield path, _floats(a), _floats(b) * np.float32(layer.scaling[active])


def _floats(tensor: Any) -> Floats:
    found: Floats = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return found
