"""Causal language modelling: the next token of each completion, EOS included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunelift.core.progress import note_once
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.fast.applying import other_loss
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED
from tunelift.fast.unpad import rows_of
from tunelift.tasks.base import TASKS, Batch, Loss, Row, RowReport, pad_inputs


class CausalLM:
    name = "causal-lm"
    peft_type = "CAUSAL_LM"

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RowReport]:
        tokens, report = Renderer(tokenizer, max_length).render_rows(examples)
        rows = [Row(t.ids, [i if kept else IGNORED for i, kept in zip(t.ids, t.in_loss, strict=True)]) for t in tokens]
        return rows, RowReport(
            rows=report.rows,
            truncated=report.truncated,
            dropped=report.dropped,
            tokens=report.tokens,
            tokens_in_loss=report.tokens_in_loss,
            reasons=dict(report.dropped_reasons),
            notes=report.notes,
        )

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        inputs = pad_inputs(rows, pad_id, device)
        labels = torch.full(inputs["input_ids"].shape, IGNORED, dtype=torch.long)
        for i, row in enumerate(rows):
            assert not isinstance(row.labels, int)
            labels[i, : len(row.labels)] = torch.as_tensor(row.labels)
        # The first token of a row is predicted by nothing, so it is never a target.
        targets = int((labels[:, 1:] != IGNORED).sum())
        return Batch(inputs, labels.to(device), len(rows), sum(len(row.ids) for row in rows), targets)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        rows = [] if some is None else rows_of(some.inputs["input_ids"], some.inputs["attention_mask"])
        view, _ = target_model(model, rows or [])
        if some is not None and (reason := other_loss(model, view)):
            note_once(f"training: {reason}; what is minimised is the cross-entropy of its logits at the targets")
        if some is not None and isinstance(view, TargetOnly):
            view.expect(some.inputs, some.labels)
        return lambda batch: view.loss_sum(batch.inputs, batch.labels), view.fast_paths


TASKS.add("causal-lm", CausalLM())
