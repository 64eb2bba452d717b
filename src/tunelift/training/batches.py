"""Which rows make each optimiser step, and how a step is split into micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

Step = list[list[int]]
"""One optimiser step: micro-batches of row indices."""


def plan_steps(
    lengths: Sequence[int], batch_size: int, epochs: float, steps: int | None, seed: int, micro_batch_tokens: int
) -> list[Step]:
    """Return every step of a training, a pure function of its arguments.

    Each epoch visits the rows (`lengths` in tokens) in an order of its own. Rows are drawn into steps at random and
    only sorted by length within a step, so that micro-batches carry little padding and the result does not change.
    """
    per_epoch = math.ceil(len(lengths) / batch_size)
    total = steps if steps is not None else max(1, round(per_epoch * epochs))
    plan: list[Step] = []
    epoch = 0
    while len(plan) < total:
        order = list(range(len(lengths)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        plan.extend(micro_batches(batch, lengths, micro_batch_tokens) for batch in batches[: total - len(plan)])
        epoch += 1
    return plan


def micro_batches(rows: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Split rows, longest first, into groups of at most `budget` padded tokens and at most a fifth of padding."""
    groups: list[list[int]] = []
    for row in sorted(rows, key=lambda r: -lengths[r]):
        if groups and _fits(groups[-1], lengths, lengths[row], budget):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


SMALL = 256
"""Tokens below which a matrix product is too small to run at full speed; such a group takes more rows, padded."""


def _fits(group: list[int], lengths: Sequence[int], length: int, budget: int) -> bool:
    width = lengths[group[0]]
    padded = width * (len(group) + 1)
    real = sum(lengths[row] for row in group) + length
    return padded <= budget and (padded <= SMALL or real >= 0.8 * padded)
