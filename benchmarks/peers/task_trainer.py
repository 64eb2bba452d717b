"""transformers' Trainer on tags, pairs of texts and questions, as its examples and documentation do each."""

from __future__ import annotations

import tempfile
from typing import Any

from steps import StepClock, drop_nothing, read_job, read_rows, write_result
from trainer import train_timed

IGNORED = -100


def main() -> None:
    job = read_job()
    data = read_rows(job)
    peft_model, model, tokenizer = load(data, job)
    rows = {"tags": tagged, "pairs": paired, "questions": asked}[job["kind"]](data["train"], tokenizer, job)
    collator = collator_of(tokenizer, job)
    first = first_losses(model, collator, collator_of(tokenizer, job | {"pad": "batch"}), rows[: job["batch_size"]])
    clock = StepClock(job["limit_seconds"])
    train_timed(trainer(model, collator, rows, job), clock)
    write_result(**clock.figures(), **first, rows=len(rows))
    peft_model.save_pretrained(f"{job['out']}/{job['number']}")


def load(data: dict[str, Any], job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return peft's model, the one that is trained, and the tokenizer.

    peft's forward for questions drops token types, so that the model inside is trained there, in which the adapter is.
    """
    import torch
    import transformers
    from peft import PeftModel

    torch.manual_seed(job["number"])
    auto = getattr(transformers, job["auto_class"])
    base = auto.from_pretrained(data["model"], dtype=torch.float32, num_labels=len(data["labels"]) or 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(data["model"])
    model = PeftModel.from_pretrained(base, data["adapter"], is_trainable=True)
    if not job["dropout"]:
        drop_nothing(model)
    return model, model.get_base_model() if job["kind"] == "questions" else model, tokenizer


def tagged(rows: list[dict[str, Any]], tokenizer: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """A word's tag stands at its first token, as in the documentation of token classification."""
    found = []
    for row in rows:
        encoded = tokenizer(row["words"], is_split_into_words=True, truncation=True, max_length=job["max_length"])
        labels, before = [], None
        for word in encoded.word_ids():
            labels.append(IGNORED if word is None or word == before else row["tags"][word])
            before = word
        found.append({**encoded, "labels": labels})
    return found


def paired(rows: list[dict[str, Any]], tokenizer: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**tokenizer(*row["texts"], truncation=True, max_length=job["max_length"]), "labels": row["label"]}
        for row in rows
    ]


def asked(rows: list[dict[str, Any]], tokenizer: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Windows of the passage; where one does not hold the answer, both positions are those of CLS (run_qa.py)."""
    found = []
    for row in rows:
        windows = tokenizer(
            row["question"], row["passage"], truncation="only_second", max_length=job["max_length"],
            stride=job["stride"], return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        start, end = row["start"], row["start"] + len(row["answer"])
        for number, offsets in enumerate(windows["offset_mapping"]):
            of_passage = [at for at, text in enumerate(windows.sequence_ids(number)) if text == 1]
            whole = offsets[of_passage[0]][0] <= start and offsets[of_passage[-1]][1] >= end
            first = max((at for at in of_passage if offsets[at][0] <= start), default=0) if whole else 0
            last = min((at for at in of_passage if offsets[at][1] >= end), default=0) if whole else 0
            names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in windows]
            own = {name: windows[name][number] for name in names}
            found.append({**own, "start_positions": first, "end_positions": last})
    return found


def collator_of(tokenizer: Any, job: dict[str, Any]) -> Any:
    from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

    if job.get("pad") == "max_length":  # what the guide does to the rows before, with DefaultDataCollator
        return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=job["max_length"])
    return (DataCollatorForTokenClassification if job["kind"] == "tags" else DataCollatorWithPadding)(tokenizer)


def first_losses(model: Any, collator: Any, plain: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the loss of the first batch without dropout: as it is collated, and of each row alone, their mean.

    `plain` is a collator that does not pad a row alone.

    The second one has no padding, which transformers' loss of questions takes for places where an answer may begin.
    """
    import torch

    def loss(some: list[dict[str, Any]], collate: Any = plain) -> float:
        with torch.no_grad():
            return float(model(**collate([dict(row) for row in some])).loss)

    was = model.training
    model.eval()
    counts = [sum(label != IGNORED for label in row["labels"]) if isinstance(row.get("labels"), list) else 1
              for row in rows]  # fmt: skip
    alone = sum(count * loss([row]) for count, row in zip(counts, rows, strict=True)) / sum(counts)
    found = {"first_loss": loss(rows, collator), "first_loss_alone": alone}
    model.train(was)
    return found


def trainer(model: Any, collator: Any, rows: list[dict[str, Any]], job: dict[str, Any]) -> Any:
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job["batch_size"], num_train_epochs=1,
        learning_rate=job["learning_rate"], lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        train_sampling_strategy="sequential", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, seed=job["number"], use_cpu=True, remove_unused_columns=False,
    )  # fmt: skip
    model.train()
    return Trainer(model=model, args=args, train_dataset=rows, data_collator=collator)


if __name__ == "__main__":
    main()
