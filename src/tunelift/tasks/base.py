"""What a task tells the rooms above it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tunelift.core.records import Example
from tunelift.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered example: token ids (T,), and labels: one per token (IGNORED outside the loss) or one class index."""

    ids: Sequence[int]
    labels: Sequence[int] | int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right. `inputs` are forward's tensors (B, T); `targets` is what the loss is divided by."""

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: int
    tokens: int
    targets: int


@dataclass(slots=True)
class RowReport:
    """What became of the rows on their way into tokens."""

    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    tokens: int = 0
    tokens_in_loss: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Loss = Callable[[Batch], Tensor]
"""Differentiable sum of the loss over a batch's targets, in nats."""


class Task(Protocol):
    """A kind of work. `labels` are the class names of a task with a head, empty otherwise."""

    name: str
    peft_type: str

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RowReport]:
        """Render examples for training; raise InputError if no row is left."""
        ...

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        """Pad rows to one batch on `device`."""
        ...

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        """Return the loss of this model, and the fast paths it takes ("on" or "off: reason", by name).

        `some` rows tell which tokens to expect, where that makes the loss cheaper.
        """
        ...


TASKS: Registry[Task] = Registry("task")


def pad_id(model: Any, tokenizer: Any) -> int:
    """Return the id to pad with: the model's own first, since a head on a decoder finds a row's last token by it."""
    known = (getattr(model.config.get_text_config(), "pad_token_id", None), tokenizer.pad_token_id)
    return next((int(token) for token in known if token is not None), 0)


def context_length(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the model takes at most, by its positions and by what its tokenizer says."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    positions = positions if positions > 0 else 2**31  # XLNet's config says -1 where there is no limit
    return min(int(positions), int(tokenizer.model_max_length or 2**31), _usable(model), _before_scaling(model))


def _usable(model: Any) -> int:
    """Return the positions of a table that counts from behind its padding's, as RoBERTa's does: 512 of 514."""
    tables = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "position_embeddings"]
    padded = [m for m in tables if getattr(m, "padding_idx", None) is not None and hasattr(m, "num_embeddings")]
    return min((int(m.num_embeddings - m.padding_idx - 1) for m in padded), default=2**31)


def _before_scaling(model: Any) -> int:
    """Return the length up to which rotary angles do not depend on the longest row of a batch.

    Beyond it, "longrope" and "dynamic" turn every row of the batch otherwise, short ones too.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type") not in ("longrope", "dynamic"):
        return 2**31
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or getattr(config, "max_position_embeddings", None) or 2**31)


def pad_inputs(rows: Sequence[Row], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, each (B, T), padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.as_tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
