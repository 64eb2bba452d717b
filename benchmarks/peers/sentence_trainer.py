"""sentence-transformers' own trainer on the same pairs, from the same adapter."""

from __future__ import annotations

import tempfile
from typing import Any

from steps import StepClock, drop_nothing, in_an_order, read_job, read_rows, write_result


def in_the_order_given(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> Any:
    """Return batches in the order of the rows: `train_sampling_strategy` changes nothing in this trainer."""
    from torch.utils.data import BatchSampler, SequentialSampler

    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def main() -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    job = read_job()
    rows = read_rows(job)
    torch.manual_seed(job["number"])
    model = SentenceTransformer(rows["model"], device="cuda" if torch.cuda.is_available() else "cpu")
    model.load_adapter(rows["adapter"], is_trainable=True)
    if job["no_dropout"]:
        drop_nothing(model)
    first, second, told = zip(*in_an_order(rows["train"], job["number"]), strict=True)
    scored = isinstance(told[0], float)
    columns: dict[str, Any] = {"sentence1": list(first), "sentence2": list(second)}
    columns |= {"score": list(told)} if scored else {}
    clock = StepClock(job["limit_seconds"])

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                clock.step(rows=job["batch_size"], tokens=job["batch_size"], loss=logs["loss"])

    args = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job["batch_size"], num_train_epochs=1,
        learning_rate=job["learning_rate"], lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        batch_sampler=in_the_order_given, save_strategy="no", logging_strategy="steps", logging_steps=1,
        report_to=[], disable_tqdm=True, seed=job["number"], bf16=job.get("bf16", False),
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    loss = CoSENTLoss(model) if scored else MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Timed()]
    )
    trainer.train()
    write_result(**clock.figures())
    model.save_pretrained(f"{job['out']}-{job['number']}")


if __name__ == "__main__":
    main()
