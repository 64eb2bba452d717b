"""Classification with a head on an encoder or a decoder: one label per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.data.columns import CLASSES
from tunelift.data.render import Renderer, RenderReport
from tunelift.tasks.base import TASKS, Batch, Learned, Row, Task, pad_inputs, says_the_texts


class SequenceClassification(Task):
    name = "sequence-classification"
    auto_class = "AutoModelForSequenceClassification"
    mapping = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
    peft_type = "SEQ_CLS"
    pipeline_tag = "text-classification"
    reading = CLASSES
    measures = ("head",)

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["accuracy", "loss"]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        index = {label: i for i, label in enumerate(labels)}
        if unknown := sorted({e.completion for e in examples} - index.keys()):
            raise InputError(
                f"The data has labels that the model's head has not: {listed(unknown)}.",
                fix=f"The head knows {listed(labels)}. Name every label with data.labels.",
            )
        report, renderer = RenderReport(rows=len(examples)), Renderer(tokenizer, max_length)
        rows = []
        for example in examples:
            tokens = renderer.head_tokens(example)
            report.truncated += tokens.truncated
            report.tokens += len(tokens.ids)
            rows.append(Row(tokens.ids, index[example.completion], tokens.segments))
        report.tokens_in_loss = len(rows)
        return rows, report

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        labels = torch.tensor([row.labels for row in rows], device=device)
        tokens = sum(len(row.ids) for row in rows)
        return Batch(pad_inputs(rows, pad_id, device), labels, len(rows), tokens, len(rows))

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the name of the class with the example's label, and of a pair what the tokens say with both texts."""
        return labels[int(row.batch.labels[0])] == row.example.completion and says_the_texts(row, tokenizer)


TASKS.add(SequenceClassification.name, SequenceClassification())
