"""Stock peft in a loop of forward, backward and AdamW, its batches padded as Trainer pads them; no more than is needed.

Told to `write`, it writes the model with its linear layers in LLM.int8()'s eight bits instead.
"""

from __future__ import annotations

from typing import Any

from steps import StepClock, read_job, read_rows, write_result


def main() -> None:
    job = read_job()
    if "write" in job:
        written(job)
        return
    import torch
    from trainer import load
    from transformers import DataCollatorForSeq2Seq

    rows = read_rows(job)
    model, tokenizer = load(rows, job)
    model.train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=job["learning_rate"], weight_decay=0.0)
    collate, size = DataCollatorForSeq2Seq(tokenizer), job["batch_size"]
    train = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows["train"]]
    clock = StepClock(job["limit_seconds"])
    clock.begin()
    for start in range(0, len(train), size):
        some = train[start : start + size]
        batch = collate([dict(row) for row in some])
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        clock.step(
            rows=len(some), computed=batch["input_ids"].numel(), tokens=sum(len(row["input_ids"]) for row in some),
            loss=float(loss),
        )  # fmt: skip
    write_result(**clock.figures())
    model.save_pretrained(job["out"])


def written(job: dict[str, Any]) -> None:
    from prepare import model_and_tokenizer
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    source, tokenizer = model_and_tokenizer(job)
    how = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=how, device_map="cpu")
    model.save_pretrained(job["write"])
    tokenizer.save_pretrained(job["write"])
    write_result(folder=job["write"])


if __name__ == "__main__":
    main()
