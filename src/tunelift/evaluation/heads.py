"""Classification heads: log-probabilities of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length, padded
from tunelift.fast.classifying import ClassLogits

ROWS_AT_ONCE = 64
"""Rows computed together at least; tokens are what limits them."""


@torch.no_grad()
def label_log_probabilities(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, rows_at_once: int, advance: Advance
) -> list[list[float]]:
    """Return for each row of token ids the log-probability (nats) of every label, in the head's order."""
    results: list[list[float]] = [[]] * len(rows)
    logits = ClassLogits(model, rows)
    for group in by_length([len(row) for row in rows], max(rows_at_once, ROWS_AT_ONCE)):
        ids = padded([rows[i] for i in group], pad_id, model.device)
        mask = padded([[1] * len(rows[i]) for i in group], 0, model.device)
        found = logits({"input_ids": ids, "attention_mask": mask}).double().log_softmax(dim=-1)
        for i, row in zip(group, found.tolist(), strict=True):
            results[i] = row
        advance(len(group))
    return results
