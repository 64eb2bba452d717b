"""Classification with a head on an encoder or a decoder: one label per text, or per pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.data.columns import CLASSES
from tunelift.data.render import RenderReport
from tunelift.tasks.base import SINGLE_LABEL, TASKS, Batch, Learned, Row, Task, says_the_texts, text_batch, text_rows


def places_of(labels: Sequence[str], examples: Sequence[Example]) -> dict[str, int]:
    """Return the place of each label in a head; raise InputError for examples with labels that it has not."""
    index = {label: i for i, label in enumerate(labels)}
    if unknown := sorted({example.completion for example in examples} - index.keys()):
        raise InputError(
            f"The data has labels that the model's head has not: {listed(unknown)}.",
            fix=f"The head knows {listed(labels)}. Name every label with data.labels.",
        )
    return index


class SequenceClassification(Task):
    name = "sequence-classification"
    auto_class = "AutoModelForSequenceClassification"
    mapping = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
    peft_type = "SEQ_CLS"
    pipeline_tag = "text-classification"
    problem_type = SINGLE_LABEL
    reading = CLASSES
    measures = ("head",)

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["accuracy", "loss"]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        index = places_of(labels, examples)
        return text_rows(examples, tokenizer, max_length, lambda example: index[example.completion])

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        return text_batch(rows, torch.tensor([row.labels for row in rows]), pad_id, device)

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the name of the class with the example's label, and of a pair what the tokens say with both texts."""
        return labels[int(row.batch.labels[0])] == row.example.completion and says_the_texts(row, tokenizer)


TASKS.add(SequenceClassification.name, SequenceClassification())
