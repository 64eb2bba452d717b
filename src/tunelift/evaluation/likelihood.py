"""How likely a model finds given completions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length, padded
from tunelift.fast.targets import IGNORED, TargetModel

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the completion that follows it."""


def log_likelihoods(
    view: TargetModel, pairs: Sequence[Pair], device: torch.device, rows_at_once: int, advance: Advance
) -> list[tuple[float, int]]:
    """Return for each pair the summed log-likelihood of the completion (nats) and the number of its target tokens.

    A token without anything before it (no prompt and no BOS) is no target.
    """
    results: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
    for group in by_length([len(prompt) + len(completion) for prompt, completion in pairs], rows_at_once):
        ids = padded([pairs[i][0] + pairs[i][1] for i in group], 0, device)
        mask = padded([[1] * (len(pairs[i][0]) + len(pairs[i][1])) for i in group], 0, device)
        labels = padded([[IGNORED] * len(pairs[i][0]) + pairs[i][1] for i in group], IGNORED, device)
        counts = (labels[:, 1:] != IGNORED).sum(dim=1).tolist()
        found = view.log_likelihoods({"input_ids": ids, "attention_mask": mask}, labels).double()
        for i, part in zip(group, torch.split(found, counts), strict=True):
            results[i] = (float(part.sum()), len(part))
        advance(len(group))
    return results
