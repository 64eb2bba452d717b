"""Which rows make each optimiser step, and how a step is split into micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunelift.fast.packed_rows import SHARED_AT_LEAST, common_beginning

Step = list[list[int]]
"""One optimiser step: micro-batches of row indices."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What each row costs, in tokens of its own; where rows pack, `shared` more are computed once for all of them."""

    own: Sequence[int]
    shared: int = 0
    packs: bool = False


def sizes(rows: Sequence[Sequence[int]], first_targets: Sequence[int], packs: bool) -> Sizes:
    """Return the sizes of rows of token ids; what all of them begin with, before any target, is shared if it pays."""
    shared = min(common_beginning(rows), *(first - 1 for first in first_targets)) if packs and len(rows) > 1 else 0
    shared = shared if shared >= SHARED_AT_LEAST else 0
    return Sizes([len(row) - shared for row in rows], shared, packs)


def plan_steps(
    rows: Sizes, batch_size: int, epochs: float, steps: int | None, seed: int, micro_batch_tokens: int
) -> list[Step]:
    """Return every step of a training, a pure function of its arguments.

    Each epoch visits the rows in an order of its own. Rows are drawn into steps at random and only sorted by length
    within a step, so that micro-batches carry little padding and the result does not change.
    """
    count = len(rows.own)
    total = steps_of(count, batch_size, epochs, steps)
    plan: list[Step] = []
    epoch = 0
    while len(plan) < total:
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
        plan.extend(micro_batches(batch, rows, micro_batch_tokens) for batch in batches[: total - len(plan)])
        epoch += 1
    return plan


def steps_of(rows: int, batch_size: int, epochs: float, steps: int | None) -> int:
    """Return how many optimiser steps so many rows make, `steps` where that is set."""
    return steps if steps is not None else max(1, round(math.ceil(rows / batch_size) * epochs))


def micro_batches(some: Sequence[int], rows: Sizes, budget: int) -> list[list[int]]:
    """Split rows into groups that compute at most `budget` tokens, padding included.

    Where rows pack, no group is much larger than another: the largest decides how much memory is taken. Where they do
    not, at most a fifth of a group is padding.
    """
    groups = _filled(some, rows, budget)
    if not rows.packs or len(groups) == 1:
        return groups
    even = rows.shared + -(-sum(rows.own[row] for row in some) // len(groups))
    tried = (_filled(some, rows, smaller) for smaller in (even, even * 17 // 16, even * 9 // 8) if smaller < budget)
    return next((found for found in tried if len(found) == len(groups)), groups)


def _filled(some: Sequence[int], rows: Sizes, budget: int) -> list[list[int]]:
    """Fill one group after another, longest rows first."""
    groups: list[list[int]] = []
    for row in sorted(some, key=lambda r: -rows.own[r]):
        if groups and _fits(groups[-1], rows, row, budget):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


SMALL = 256
"""Tokens below which a matrix product is too small to run at full speed; such a group takes more rows, padded."""


def _fits(group: list[int], rows: Sizes, row: int, budget: int) -> bool:
    real = sum(rows.own[other] for other in group) + rows.own[row]
    if rows.packs:
        return rows.shared + real <= budget
    padded = rows.own[group[0]] * (len(group) + 1)
    return padded <= budget and (padded <= SMALL or real >= 0.8 * padded)
