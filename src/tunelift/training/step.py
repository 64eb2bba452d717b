"""One optimiser step over micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunelift.core.errors import TuneliftError
from tunelift.tasks.base import Batch, Loss


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did: the mean loss per target that was optimised (nats), and how much it computed."""

    loss: float
    gradient_norm: float
    rows: int
    tokens: int


def train_step(
    micro_batches: Sequence[Batch], loss: Loss, parameters: Sequence[nn.Parameter], max_grad_norm: float
) -> StepResult:
    """Accumulate gradients over the micro-batches and clip them; the caller moves the optimiser.

    The loss is summed over the targets of all micro-batches and divided once by their number, so that the split into
    micro-batches changes nothing. Raises TuneliftError where the loss is not a finite number.
    """
    targets = sum(batch.targets for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        part = loss(batch) / max(targets, 1)
        part.backward()  # type: ignore[no-untyped-call]
        total += part.item()
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    if not torch.isfinite(torch.tensor([total, norm])).all():
        raise TuneliftError(
            f"The loss ({total}) or its gradient ({norm}) is not a finite number; training cannot go on.",
            fix="Lower train.learning_rate, or set model.dtype to float32.",
        )
    return StepResult(total, norm, sum(b.rows for b in micro_batches), sum(b.tokens for b in micro_batches))
