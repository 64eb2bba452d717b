"""What a model's parameters are: their dtypes, where they lie, and numbers by which a change of them is seen.

Nobody else asks a parameter for its dtype. Of those numbers there are three, since they are for different times:
`bit_sums` see every change, in any process, and are quick; `sum_of_own_width` does too and is what checkpoints hold;
`samples` take no time, and see in the process that took them what changes most numbers, as merging an adapter does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def compute_dtype(model: Any) -> torch.dtype:
    """Return the dtype that a module computes in: that of its first parameter that holds numbers with a point.

    A layer whose weight lies in blocks has it in the empty buffer `like` (fast/blocks.py): where all of a model does,
    its first such parameter is an adapter's. Raises StopIteration where there is neither.
    """
    return next(_computed_in(model))


def _computed_in(model: Any) -> Iterator[torch.dtype]:
    for module in model.modules():
        own = (module._buffers.get("like"), *module._parameters.values())
        yield from (numbers.dtype for numbers in own if numbers is not None and numbers.is_floating_point())


def stored_dtypes(model: Any) -> set[torch.dtype]:
    """Return the dtypes that a model's parameters, its adapters' among them, are held in."""
    return {p.dtype for p in model.parameters()}


def is_wide(model: Any) -> bool:
    """Tell whether a model computes in float32 or wider: in half precision right numbers are further apart."""
    return compute_dtype(model).itemsize >= 4


def is_half(numbers: Tensor) -> bool:
    """Tell whether a parameter, or another tensor, is in half precision."""
    import torch

    return numbers.dtype in (torch.float16, torch.bfloat16)


def dtype_name(dtype: torch.dtype) -> str:
    """Return what the config, manifests and people call a dtype, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def device_of(model: Any) -> torch.device:
    """Return the device of a module's first parameter, where its inputs are to be."""
    return next(model.parameters()).device  # type: ignore[no-any-return]


def trained(model: Any) -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of each parameter that is trained."""
    return [(name, list(p.shape), str(p.dtype)) for name, p in model.named_parameters() if p.requires_grad]


def bit_sums(parameter: Tensor) -> tuple[int, int]:
    """Return the sum over a parameter's bits as words of 8 bytes, and that of the bytes left: 50 ms for a gigabyte."""
    import torch

    raw = parameter.detach().contiguous().flatten().view(torch.uint8)
    raw = raw.clone() if raw.storage_offset() % 8 else raw  # words of a view have to begin at one
    whole = raw.numel() // 8 * 8
    return int(raw[:whole].view(torch.int64).sum()), int(raw[whole:].sum())


def sum_of_own_width(parameter: Tensor) -> int:
    """Return the sum over a parameter's bits as integers of its own width: half a second for a gigabyte."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(parameter.detach().view(integers[parameter.element_size()]).sum(dtype=torch.int64))


def samples(model: Any) -> dict[int, str]:
    """Return some numbers of each parameter, written out, by the parameter's id."""
    flat = {id(parameter): parameter.detach().flatten() for parameter in model.parameters()}
    return {key: str(values[:: max(len(values) // 64, 1)][:65].tolist()) for key, values in flat.items()}
