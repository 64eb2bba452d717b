"""The two factors of each layer of a LoRA, and what other programs have no place for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tunelift.core.errors import InputError, listed
from tunelift.model_facts.anatomy import base_of
from tunelift.models.architectures import Floats


def check_plain(adapted: Any, runtime: str, fix: str, *, dora: bool = False) -> None:
    """Raise InputError, with every reason, for an adapter that is more than a product of factors for each layer.

    With `dora` the magnitudes of DoRA are allowed too.
    """
    config = adapted.peft_config[adapted.active_adapter]
    if config.peft_type != "LORA":
        raise InputError(f"The adapter is of peft's {config.peft_type.value}, and {runtime} loads LoRA.", fix=fix)
    found = {
        "DoRA (use_dora)": config.use_dora and not dora,
        "biases in LoRA's factors (lora_bias)": config.lora_bias,
        f"trained biases of the base (bias={config.bias})": config.bias != "none",
        f"modules trained whole ({listed(config.modules_to_save or [])})": config.modules_to_save,
        "trained tokens (trainable_token_indices)": config.trainable_token_indices,
        "parameters that are no layers (target_parameters)": config.target_parameters,
        "repeated layers (layer_replication)": config.layer_replication,
        "tokens that it acts from (aLoRA)": config.alora_invocation_tokens,
    }
    if problems := [f"{runtime}'s LoRA has no {what}." for what, there in found.items() if there]:
        raise InputError(*problems, fix=fix)
    for module, _, _ in factors(adapted, fix):
        if "embed" in module or module.endswith(("wte", "lm_head")):
            _check_tied(adapted, module, runtime, fix)


def _check_tied(adapted: Any, module: str, runtime: str, fix: str) -> None:
    if getattr(base_of(adapted).config, "tie_word_embeddings", False):
        raise InputError(
            f"The adapter is on {module}, which shares its weight with the head or the embeddings: in {runtime} both "
            "are one tensor.",
            fix=fix,
        )


def factors(adapted: Any, fix: str) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield the name of each layer with A, (rank, inputs), and B with its scale, (outputs, rank).

    Of embeddings A is (vocabulary, rank), as rows are looked up in it.
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
            raise InputError(f"{path} is a {type(layer).__name__}, whose LoRA is not exported.", fix=fix)
        yield path, floats(a), floats(b) * np.float32(layer.scaling[active])


def floats(tensor: Any) -> Floats:
    """Return a tensor as an array in 32 bits."""
    found: Floats = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return found
