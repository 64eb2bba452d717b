"""A training shared by several processes, where torch.distributed runs: each computes a part of every window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


def position() -> tuple[int, int]:
    """Return this process's rank and how many there are: 0 and 1 where it is alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def summed(total: float, parameters: Sequence[nn.Parameter]) -> float:
    """Return `total` summed over the ranks, and sum the parameters' gradients in place; one without counts as zero."""
    if position()[1] == 1:
        return total
    device = parameters[0].device
    values = torch.tensor([total], dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    distributed.all_reduce(values)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)
    return float(values)


def any_of(flag: int, device: torch.device) -> int:
    """Return the largest flag of all ranks, so that they stop after the same step."""
    if position()[1] == 1:
        return flag
    values = torch.tensor([flag], device=device)
    distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return int(values)


def of_all(tensor: Tensor) -> list[Tensor]:
    """Return this tensor of every rank, in the order of the ranks."""
    ranks = position()[1]
    if ranks == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(ranks)]
    distributed.all_gather(found, tensor)
    return found
