"""The slow twin of `TargetOnly`, for models whose logits cannot be had that way: the model's own call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.fast.head import at_least_float32
from tunelift.fast.targets import PATHS, TargetModel, targets_of
from tunelift.fast.undo import without_cache
from tunelift.model_facts.anatomy import beginning_tokens


class WholeLogits:
    """The model's own logits at every position: correct for anything, slow."""

    name = "whole logits"

    def __init__(self, model: Any, reason: str = "off") -> None:
        self.model, self.nats = model, 0.0
        self.fast_paths = dict.fromkeys(PATHS, reason)

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.losses(inputs, labels).sum()

    def losses(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits, targets = self._at_targets(inputs, labels)
        return F.cross_entropy(at_least_float32(logits), targets, reduction="none")

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        with torch.no_grad():
            logits, targets = self._at_targets(inputs, labels)
            return -F.cross_entropy(at_least_float32(logits), targets, reduction="none")

    def _at_targets(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        asked = self._padded_apart(inputs)
        logits = self.model(**asked, **without_cache(self.model)).logits  # (B, V' + T, V): virtual tokens come first
        logits = logits[:, logits.shape[1] - labels.shape[1] :]
        where, targets = targets_of(labels)
        return logits[:, :-1][where], targets

    def _padded_apart(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the inputs, padded with an id at which no adapter begins: peft 0.21 looks for one in padding too."""
        begins = beginning_tokens(self.model)
        if not begins or "attention_mask" not in inputs:
            return inputs
        free = next(token for token in range(len(begins) + 1) if token not in begins)
        return {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, free)}


class RowByRow:
    """Each row by itself, for models that read padding."""

    name = "row by row"

    def __init__(self, view: TargetModel) -> None:
        self.view, self.fast_paths, self.nats = view, view.fast_paths, view.nats

    def loss_sum(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.losses(inputs, labels).sum()

    def losses(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.cat([self.view.losses(*row) for row in _rows(inputs, labels)])

    def log_likelihoods(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return torch.cat([self.view.log_likelihoods(*row) for row in _rows(inputs, labels)])


def _rows(inputs: Mapping[str, Tensor], labels: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield each row of a batch, padded on the right, without its padding."""
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        yield {name: value[i : i + 1, :length] for name, value in inputs.items()}, labels[i : i + 1, :length]
