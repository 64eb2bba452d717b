"""Which layers "all-linear" means in models where peft takes routers, or refuses layers and with them everything."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tunelift.core.errors import InputError

EXPERTS = "experts"
ROUTERS = ("router", "gate")
HEAD_LEFT_OUT = ("CAUSAL_LM", "SEQ_CLS")
"""Task types of peft whose "all-linear" is without the head."""
READ_BY_WEIGHT = ("dt_proj",)
"""Layers of Mamba and its kin of which the model's forward pass takes the weights itself (transformers 5.23).

An adapter there never acts, and once merged it would.
"""
STATES_READ = "FEATURE_EXTRACTION"
"""Task type of peft of models whose last hidden states are read, so that an adapter on their pooler would not act."""
HEADS = ("score", "classifier", "classification_head", "qa_outputs")
"""Heads, which are trained whole, or what the layers of one lie in."""


def linear_targets(model: Any, peft_type: str | None) -> tuple[list[str], str] | None:
    """Return the names of a model's linear layers but its head and its routers, and what is adapted and what is bare.

    None where peft's own "all-linear" is right: for a task type of which it leaves out the head, on a model without
    experts of which it refuses no layer.
    """
    experts = any(name.rpartition(".")[2] == EXPERTS for name, _ in model.named_modules())
    if peft_type in HEAD_LEFT_OUT and not experts and not _refused(model):
        return None
    taken, left = linear_layers(model)
    if peft_type == STATES_READ:
        taken = [name for name in taken if "pooler" not in name.split(".")]
    packed = [name for name, p in model.named_parameters() if EXPERTS in name.split(".") and p.dim() == 3]
    bare = sorted({kind(name) for name in [*left, *packed]})  # experts' weights in one tensor among them
    said = f"adapted: {', '.join(sorted({kind(name) for name in taken}))}"
    return taken, f"{said}; left bare: {', '.join(bare)}" if bare else said


def linear_layers(model: Any) -> tuple[list[str], list[str]]:
    """Return the names of the linear layers that peft adapts, and of those to leave bare: routers, and what it refuses.

    The head is in neither.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [name for name, module in model.named_modules() if _is_linear(module) and module is not head]
    never = {*_renamed(model), *_refused(model), *READ_BY_WEIGHT}
    left = [name for name in linear if _routes(model, name) or name.rpartition(".")[2] in never]
    return [name for name in linear if name not in left and not {*HEADS} & {*name.split(".")}], left


def check_layers(adapted: Any, where: str) -> None:
    """Raise InputError where an adapter is put on a layer that is called a linear one and does something else.

    Routers of some model files are such layers, which return several tensors. Each is called without numbers.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in adapted.named_modules():
        own = module.get_base_layer() if isinstance(module, BaseTunerLayer) else None
        if isinstance(own, torch.nn.Linear) and type(own).forward is not torch.nn.Linear.forward and not _maps(own):
            raise InputError(
                f"{where}: {kind(name)} is a {type(own).__name__}, which is more than a linear layer: peft cannot "
                "adapt it.",
                fix='Leave it out; "all-linear" does.',
            )


def check_heads(adapted: Any, where: str) -> None:
    """Raise InputError where rows of a head with a bias are trained, which peft 0.21 then leaves out.

    A head that is tied to embeddings of which rows are trained is one of them.
    """
    import torch
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

    for name, module in adapted.named_modules():
        own = module.get_base_layer() if isinstance(module, TrainableTokensLayer) else None
        if isinstance(own, torch.nn.Linear) and own.bias is not None:
            raise InputError(
                f"{where}: {kind(name.removesuffix('.token_adapter'))} has a bias, which peft 0.21 leaves out where it "
                "trains rows of tokens.",
                fix="Train the embeddings whole (adapter.modules_to_save), or take another model.",
            )


def check_activates(adapted: Any, where: str) -> None:
    """Raise InputError where an aLoRA is on layers whose rows peft cannot take apart.

    peft 0.21 flattens by `view` what a layer takes and gives, and of Mamba's x_proj that lies otherwise in memory. The
    base is asked two short rows; of shapes only where its weights are.
    """
    import torch
    from peft.tuners.lora.layer import LoraLayer

    if not getattr(adapted.active_peft_config, "alora_invocation_tokens", None):
        return
    wrong = set[str]()

    def look(name: str) -> Any:
        def looked(_module: Any, taken: Any, given: Any) -> None:
            if not all(_flattens(one) for one in (taken[0], given)):
                wrong.add(kind(name))

        return looked

    layers = [(name, part.get_base_layer()) for name, part in adapted.named_modules() if isinstance(part, LoraLayer)]
    hooks = [layer.register_forward_hook(look(name)) for name, layer in layers]
    ids = torch.zeros(2, 3, dtype=torch.long, device=adapted.device)
    try:
        with torch.no_grad(), adapted.disable_adapter():
            adapted.get_base_model()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except RuntimeError:  # as of a model that looks at the values of what it is asked
        if not ids.is_meta:
            raise
    finally:
        for hook in hooks:
            hook.remove()
    if wrong:
        parts = ", ".join(sorted(wrong))
        raise InputError(
            f"{where}: aLoRA cannot be on {parts}: peft 0.21 takes rows apart by a view, and these lie otherwise in "
            "memory there.",
            fix="Leave it out of target_modules, or take a plain LoRA.",
        )


def _flattens(tensor: Any) -> bool:
    """Tell whether a tensor (..., D) is a view of its rows."""
    try:
        tensor.view(-1, tensor.shape[-1])
    except RuntimeError:
        return False
    return True


def _maps(layer: Any) -> bool:
    """Tell whether a layer makes one tensor of its output's width, as a linear one does, and as a quantised one."""
    import torch

    from tunelift.fast.blocks import BlockLinear

    if not layer.weight.is_floating_point():  # for bitsandbytes' peft has layers of its own
        return type(layer).__module__.startswith("bitsandbytes.") or isinstance(layer, BlockLinear)
    try:
        shaped = deepcopy(layer).to("meta")
        made = shaped(torch.empty(1, 1, layer.in_features, dtype=layer.weight.dtype, device="meta"))
    except Exception:  # whatever it does instead
        return False
    return isinstance(made, torch.Tensor) and made.shape == (1, 1, layer.out_features)


def _is_linear(module: Any) -> bool:
    """Take torch's layers and those of quantisers; those of model files do more, and some return tuples."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D)) and not type(module).__module__.startswith(
        "transformers.models"
    )


def _routes(model: Any, name: str) -> bool:
    """Tell whether a layer chooses among experts: it, or what it lies in, stands beside them and is called so."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        beside = model.get_submodule(".".join(parts[:i]))
        if hasattr(beside, EXPERTS) and any(word in part.split("_") for word in ROUTERS):
            return True
    return False


def _renamed(model: Any) -> set[str]:
    """Return the names of layers that peft takes for old names of packed experts, whatever layers they are."""
    from peft.utils import transformers_weight_conversion as conversion

    kinds, names = (
        getattr(conversion, name, {}) for name in ("_MODEL_TO_CONVERSION_PATTERN", "_MOE_TARGET_MODULE_MAPPING")
    )
    return set(names.get(kinds.get(getattr(model.config, "model_type", None)), {}))


def _refused(model: Any) -> set[str]:
    """Return the names of layers that peft adapts in no model of this type, as the output projections of Mamba."""
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", lambda *_: None)
    refused = set[str]()
    for name in {name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)}:
        try:
            check(LoraConfig(), model, name)
        except ValueError:
            refused.add(name)
    return refused


def kind(name: str) -> str:
    """Return a layer's name without the numbers and what stands before the last of them."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])
