"""One optimiser step over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunelift.core.errors import InputError
from tunelift.fast.in_batch import over_rows
from tunelift.tasks.base import Batch, Loss
from tunelift.training import ranks

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch's allocators say it where they raise no error of a class of its own: Apple's GPU, and the CPU."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did: the mean loss per target that was optimised (nats), and how much it computed."""

    loss: float
    gradient_norm: float
    rows: int
    tokens: int

    @property
    def finite(self) -> bool:
        """Return whether loss and gradient are numbers that the parameters may be moved by."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def train_step(
    micro_batches: Sequence[Batch],
    loss: Loss,
    parameters: Sequence[nn.Parameter],
    max_grad_norm: float,
    scale: float = 1.0,
    gather: Callable[[], Sequence[Tensor]] | None = None,
) -> StepResult:
    """Accumulate gradients over the micro-batches and clip them; the caller moves the optimiser, if they are finite.

    The loss is summed over the targets of all micro-batches and divided once by their number, so that the split into
    micro-batches changes nothing, nor does it where rows are told apart from each other. With several ranks each
    computes its share of them, and all get the whole gradient.
    Backwards it goes `scale` times as large, which is taken out of the gradients again: first `gather` hands them to
    what is moved, where that is not the parameters themselves.
    """
    targets = sum(batch.targets for batch in micro_batches)
    rank, count = ranks.position()
    total = 0.0
    loss = over_rows(loss, micro_batches)
    for batch in micro_batches[rank::count]:
        part = loss(batch) / max(targets, 1)
        if not part.requires_grad:
            raise InputError(
                "This model's loss does not reach what is to be trained: its layers keep no gradients, as Reformer's.",
                fix="Take another model.",
            )
        (part * scale).backward()  # type: ignore[no-untyped-call]
        total += part.item()
    total = ranks.summed(total, parameters)
    moved = parameters if gather is None else gather()
    if scale != 1.0:
        for tensor in moved:
            if tensor.grad is not None:
                tensor.grad.div_(scale)
    norm = float(nn.utils.clip_grad_norm_(moved, max_grad_norm))
    return StepResult(total, norm, sum(b.rows for b in micro_batches), sum(b.tokens for b in micro_batches))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the computation asked for more memory than there is."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)
