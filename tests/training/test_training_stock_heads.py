"""The loss of the first batch is that of a stock Trainer with its usual collator, for tasks of texts with a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizerFast, DataCollatorWithPadding, Trainer, TrainingArguments

import tiny_models
from tunelift.config.schema import DataSection
from tunelift.core.records import Example, Pair
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.tasks import TASKS

WORDS = ["cat", "dog", "sat", "ran", "on", "the", "mat", "red"]
ROWS = [
    {
        "sentence1": " ".join(WORDS[i % 3 : i % 3 + 2 + i % 4]),
        "sentence2": " ".join(WORDS[(2 * i) % 5 : (2 * i) % 5 + 1 + i % 3]),
        "label": str(i % 2),
        "score": i / 3,
        "labels": WORDS[: i % 3],
    }
    for i in range(8)
]
TASKS_OF_TEXTS = {
    "sequence-classification": ({"label": "label"}, ["0", "1"], lambda row: int(row["label"])),
    "regression": ({"label": "score"}, ["score"], lambda row: float(row["score"])),
    "multi-label-classification": (
        {"label": "labels"},
        WORDS[:2],
        lambda row: [float(word in row["labels"]) for word in WORDS[:2]],
    ),
}


@pytest.mark.parametrize("name", TASKS_OF_TEXTS)
@pytest.mark.parametrize("paired", [False, True], ids=["texts", "pairs"])
def test_the_first_batch_has_the_loss_of_a_stock_trainer(name: str, paired: bool, tmp_path: Path) -> None:
    keys, labels, wanted = TASKS_OF_TEXTS[name]
    task = TASKS.get(name)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    model = tiny_models.classifier(labels, problem_type=task.problem_type, pad_token_id=0)
    texts = {"text": "sentence1"} | ({"text_pair": "sentence2"} if paired else {})
    some: list[Example] = make_examples(read_rows(ROWS), DataSection(**texts, **keys), task.reading)[0]
    assert all(isinstance(example.given, Pair) == paired for example in some)
    rows, _ = task.rows(some, tokenizer, 100, labels)
    batch = task.collate(rows, 0, torch.device("cpu"))
    with torch.no_grad():
        ours = float(task.loss(model, batch)[0](batch)) / batch.targets

    columns = [(row["sentence1"], row["sentence2"]) if paired else (row["sentence1"],) for row in ROWS]
    stock: list[Any] = [dict(tokenizer(*own)) | {"labels": wanted(row)} for own, row in zip(columns, ROWS, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], per_device_train_batch_size=len(ROWS)
    )
    trainer = Trainer(model, arguments, train_dataset=stock, data_collator=DataCollatorWithPadding(tokenizer))
    (first,) = trainer.get_train_dataloader()
    with torch.no_grad():
        assert ours == pytest.approx(float(trainer.compute_loss(model.eval(), first)), rel=1e-5)
