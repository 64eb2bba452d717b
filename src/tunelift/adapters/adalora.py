"""What AdaLoRA does beside: it keeps its factors orthogonal, and takes ranks away where they matter least.

Zhang et al. 2023, arXiv:2303.10512. A triplet is one column of B, one row of A and its singular value in E.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunelift.model_facts.parameters import compute_dtype

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""Moving averages of peft's allocator, by parameter: how much it matters, and how unsure that is."""


def schedule(_model: Any, _rows: int, steps: int) -> Mapping[str, Any]:
    """Return when ranks are taken away: not in the first 4% of the steps, nor in the last 10%.

    So it is in peft's method comparison. Ranks are looked at anew after each step.
    """
    return {"target_modules": "all-linear", "total_step": steps, "tinit": steps // 25, "tfinal": steps // 10}


def allocate(model: Any, step: int) -> None:
    """Take ranks away after a step, unless the adapter came with its final ones."""
    import torch

    if not _is_allocated(model):
        for _, parameter in _own(model, ".lora_"):
            if parameter.grad is None:  # of a layer that no row came through, as experts may be
                parameter.grad = torch.zeros_like(parameter)
        model.base_model.update_and_allocate(step)


def orthogonality(model: Any) -> Any:
    """Return how far the factors are from orthogonal ones (mean Frobenius norm), times the weight that is set."""
    import torch

    factors = [p.T if ".lora_B." in name else p for name, p in _own(model, ".lora_A.", ".lora_B.")]
    apart = [torch.linalg.norm(rows @ rows.T - torch.eye(len(rows), device=rows.device)) for rows in factors]
    return model.active_peft_config.orth_reg_weight * torch.stack(apart).mean()


def kept(model: Any) -> Mapping[str, Any]:
    """Return the moving averages of importance."""
    allocator = model.base_model.rankallocator
    return {f"{kind}/{name}": t for kind in AVERAGES for name, t in getattr(allocator, kind).items()}


def put_back(model: Any, tensors: Mapping[str, Any]) -> None:
    """Give back the moving averages, and the ranks that are left."""
    allocator = model.base_model.rankallocator
    allocator.reset_ipt()
    for name, tensor in tensors.items():
        kind, _, parameter = name.partition("/")
        getattr(allocator, kind)[parameter] = tensor
        allocator.ipt[parameter] = tensor  # made anew at the next step
    keep_ranks(model)


def keep_ranks(model: Any) -> None:
    """Say in the config which ranks are left, by the singular values: those of the last step need not be the best's."""
    if not _is_allocated(model):
        left = {name.removeprefix("base_model.model."): p.flatten() != 0 for name, p in _own(model, ".lora_E.")}
        model.active_peft_config.rank_pattern = {name: some.tolist() for name, some in left.items()}


def end(model: Any) -> None:
    """Say which ranks are left, keep those alone, and let the numbers be those that peft will load.

    With the others in it, all zero, products are summed otherwise, and in half precision models answer otherwise.
    Onto a base in half precision peft 0.21 loads them rounded to it: what is measured and saved is then rounded, too.
    """
    import torch

    dtype = compute_dtype(model)
    with torch.no_grad():
        for _, parameter in _own(model, ".lora_"):
            parameter.copy_(parameter.to(dtype))
    if not _is_allocated(model):
        keep_ranks(model)
        config = model.active_peft_config
        model.base_model.resize_modules_by_rank_pattern(config.rank_pattern, model.active_adapter)
        for name, parameter in _own(model, ".lora_", ".ranknum."):  # made anew, in the base's precision
            parameter.data = parameter.data.float()
            parameter.requires_grad_(".lora_" in name)


def _is_allocated(model: Any) -> bool:
    """Tell whether an adapter was loaded with the ranks that an earlier training left."""
    return any(len(p) != model.active_peft_config.init_r for _, p in _own(model, ".lora_E."))


def _own(model: Any, *parts: str) -> Iterator[tuple[str, Any]]:
    """Yield the parameters of the adapter in use whose names have one of these parts."""
    for name, parameter in model.named_parameters():
        if name.endswith(f".{model.active_adapter}") and any(part in name for part in parts):
            yield name, parameter
