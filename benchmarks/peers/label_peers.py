"""Labels from few rows by others: Trainer on all weights, SetFit, and a regression on sentence embeddings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from steps import peak_bytes, read_job, read_rows, write_result

Predict = Callable[[Sequence[str]], Sequence[int]]
"""Gives the index of the label of each text."""


def main() -> None:
    import torch

    job = read_job()
    rows = read_rows(job)
    torch.manual_seed(job["number"])
    texts, labels = pairs(rows["train"][job["number"]], rows["labels"])
    test, wanted = pairs(rows["test"], rows["labels"])
    learn = WAYS[job["way"]](rows, job)
    began = time.monotonic()
    predict = learn(texts, labels)
    seconds = time.monotonic() - began
    right = sum(int(found) == label for found, label in zip(predict(test), wanted, strict=True))
    write_result(seconds=seconds, accuracy=right / len(wanted), peak_bytes=peak_bytes())


def pairs(rows: list[Any], labels: list[str]) -> tuple[list[str], list[int]]:
    return [text for text, _ in rows], [labels.index(label) for _, label in rows]


Learn = Callable[[list[str], list[int]], Predict]


def trainer(rows: dict[str, Any], job: dict[str, Any]) -> Learn:
    """All weights and a fresh head by transformers' Trainer, with its own schedule."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    count = len(rows["labels"])
    model = AutoModelForSequenceClassification.from_pretrained(rows["model"], num_labels=count, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(rows["model"])
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job["batch_size"], seed=job["number"],
        num_train_epochs=job["epochs"], learning_rate=job["learning_rate"], save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip

    def encoded(texts: Sequence[str]) -> dict[str, Any]:
        return dict(tokenizer(list(texts), truncation=True, max_length=256))

    def learn(texts: list[str], labels: list[int]) -> Predict:
        data = Dataset.from_dict({**encoded(texts), "labels": labels})
        made = Trainer(model=model, args=args, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer))
        made.train()
        return lambda some: made.predict(Dataset.from_dict(encoded(some))).predictions.argmax(-1)

    return learn


def setfit(rows: dict[str, Any], job: dict[str, Any]) -> Learn:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(rows["model"], device="cpu")
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), batch_size=job["batch_size"], num_epochs=1, num_iterations=job["pairs_a_row"],
        seed=job["number"], report_to="none", save_strategy="no", show_progress_bar=False,
    )  # fmt: skip

    def learn(texts: list[str], labels: list[int]) -> Predict:
        data = Dataset.from_dict({"text": texts, "label": labels})
        Trainer(model=model, args=args, train_dataset=data).train()
        return lambda some: model.predict(list(some))

    return learn


def regression(rows: dict[str, Any], job: dict[str, Any]) -> Learn:
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    model = SentenceTransformer(rows["model"], device="cpu")

    def learn(texts: list[str], labels: list[int]) -> Predict:
        made = LogisticRegression(max_iter=1000).fit(model.encode(texts), labels)
        return lambda some: made.predict(model.encode(list(some)))

    return learn


WAYS = {"trainer": trainer, "setfit": setfit, "regression": regression}

if __name__ == "__main__":
    main()
