"""How likely a model finds given completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length
from tunelift.fast.packed_rows import SHARED_AT_LEAST, Past, common_beginning, pack
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED, TargetModel
from tunelift.tasks.base import padded, padded_inputs

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the completion that follows it."""

PACKED_ROWS = 256
"""Rows that are packed together at most; tokens are what limits them."""


def log_likelihoods(
    view: TargetModel, pairs: Sequence[Pair], device: torch.device, rows_at_once: int, advance: Advance
) -> list[tuple[float, int]]:
    """Return for each pair the summed log-likelihood of the completion (nats) and the number of its target tokens.

    A token without anything before it (no prompt and no BOS) is no target.
    """
    packs = isinstance(view, TargetOnly) and view.packs
    past = common_past(view, pairs) if packs else None
    results: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
    lengths = [len(prompt) + len(completion) - (past.tokens if past else 0) for prompt, completion in pairs]
    for whole in by_length(lengths, PACKED_ROWS if packs else rows_at_once):
        advance(len(whole))
        group = [i for i in whole if lengths[i]]
        some = [pairs[i] for i in group]
        if not group:
            continue
        targets = [len(completion) if prompt else max(len(completion) - 1, 0) for prompt, completion in some]
        found = _packed(view, some, past) if isinstance(view, TargetOnly) and packs else _padded(view, some, device)
        for i, part in zip(group, torch.split(found.double(), targets), strict=True):
            results[i] = (float(part.sum()), len(part))
    return results


def of_groups(
    view: TargetModel, groups: Sequence[Sequence[Pair]], device: torch.device, rows_at_once: int, advance: Advance
) -> list[list[tuple[float, int]]]:
    """Return what `log_likelihoods` does for groups of pairs, such as answers to one prompt, which they share.

    A group is computed at once, so that a model that takes packed rows computes what it shares once.
    """
    packs = isinstance(view, TargetOnly) and view.packs
    results: list[list[tuple[float, int]]] = [[] for _ in groups]
    rows = [[prompt + answer for prompt, answer in group] for group in groups]
    shared = [common_beginning(some) if packs and len(some) > 1 else 0 for some in rows]
    costs = [sum(map(len, some)) - n * (len(some) - 1) for some, n in zip(rows, shared, strict=True)]
    for several in by_length(costs, PACKED_ROWS if packs else rows_at_once):
        some = [pair for i in several for pair in groups[i]]
        found = _packed(view, some, None) if isinstance(view, TargetOnly) and packs else _padded(view, some, device)
        targets = [len(answer) if prompt else max(len(answer) - 1, 0) for prompt, answer in some]
        parts = iter(torch.split(found.double(), targets))
        for i in several:
            results[i] = [(float(part.sum()), len(part)) for _, part in zip(groups[i], parts, strict=False)]
        advance(len(several))
    return results


def common_past(view: TargetModel, pairs: Sequence[Pair]) -> Past | None:
    """Return the keys and values of what all rows begin with before their first target, computed once; None if little.

    What is given without completions must leave a token of each prompt over, which the completions follow.
    """
    if len(pairs) < 2 or not isinstance(view, TargetOnly) or not view.packs:
        return None
    first = min(len(prompt) - 1 for prompt, _ in pairs)
    shared = min(common_beginning([prompt for prompt, _ in pairs]), first)
    return view.past(pairs[0][0][:shared]) if shared >= SHARED_AT_LEAST else None


def _packed(view: TargetOnly, pairs: Sequence[Pair], past: Past | None) -> torch.Tensor:
    """Return the log-likelihoods of all targets, pair by pair."""
    known = past.tokens if past else 0
    rows = [(prompt + completion)[known:] for prompt, completion in pairs]
    first = [max(len(prompt) - 1, 0) - known for prompt, _ in pairs]
    packed_row = pack(rows, [min(at, len(row) - 1) for at, row in zip(first, rows, strict=True)], past=past)
    predict = [p for places, at in zip(packed_row.rows, first, strict=True) for p in places[at:-1]]
    targets = [token for row, at in zip(rows, first, strict=True) for token in row[at + 1 :]]
    with torch.no_grad():
        hidden = view.packed_hidden(packed_row, predict)
    at, tokens = (torch.tensor(part, dtype=torch.long, device=hidden.device) for part in (predict, targets))
    return view.log_probabilities(hidden[at], torch.arange(len(at), device=hidden.device), tokens)


def _padded(view: TargetModel, pairs: Sequence[Pair], device: torch.device) -> torch.Tensor:
    labels = padded([[IGNORED] * len(prompt) + completion for prompt, completion in pairs], IGNORED, device)
    return view.log_likelihoods(padded_inputs([prompt + completion for prompt, completion in pairs], 0, device), labels)
