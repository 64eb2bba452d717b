"""A training shared by several processes, where torch.distributed runs: each computes a part of every window."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from tunelift.core import progress
from tunelift.core.errors import InputError

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for a while; nothing where this one is alone or has joined before.

    Only the first says what is going on.
    """
    if _started() == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        with nullcontext() if first() else progress.silenced():
            yield
    finally:
        distributed.destroy_process_group()


def refuse_several(what: str) -> None:
    """Raise InputError where torchrun started this process with others: each would do the same, in the same folder."""
    if _started() > 1:
        raise InputError(
            f"{what} works in one process, and torchrun started {_started()}.",
            fix="Start it without torchrun; of the commands, tunelift tune alone shares its work among processes.",
        )


def _started() -> int:
    return int(os.environ["WORLD_SIZE"]) if distributed.is_available() and distributed.is_torchelastic_launched() else 1


def first() -> bool:
    """Tell whether this is the process that writes files: the only one, or the first of several."""
    return position()[0] == 0


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


def of_first(value: T) -> T:
    """Return this value of the first rank."""
    if position()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def any_of(flag: int, device: torch.device) -> int:
    """Return the largest flag of all ranks, so that they stop after the same step."""
    return max(int(own) for own in of_all(torch.tensor([flag], device=device)))


def of_all(tensor: Tensor) -> list[Tensor]:
    """Return this tensor of every rank, in the order of the ranks."""
    ranks = position()[1]
    if ranks == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(ranks)]
    distributed.all_gather(found, tensor)
    return found
