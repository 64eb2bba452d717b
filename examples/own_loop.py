"""Train with a plain PyTorch loop; tunelift measures before and after."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, set_seed

import news
import tunelift


def train(model: Any, batches: DataLoader[Any]) -> None:
    """Go once through the batches."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=5e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    model.train()
    for step, batch in enumerate(batches, start=1):
        loss = model(**batch.to(model.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            print(f"step {step} of {len(batches)}: loss {loss.item():.3f}")


def main() -> None:
    """Measure, train, save, measure again, compare."""
    options = news.options(__doc__)
    train_rows, test_rows = news.rows(options.data, options.train_rows, options.test_rows)
    set_seed(0)

    model, tokenizer = tunelift.load(options.model)  # transformers' own classes, as from_pretrained gives them
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = tunelift.evaluate(model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])

    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.print_trainable_parameters()
    rows = news.tokenized(tokenizer, train_rows)
    train(model, DataLoader(rows, batch_size=4, shuffle=True, collate_fn=DataCollatorForSeq2Seq(tokenizer)))
    model.save_pretrained(options.output)

    tuned = tunelift.evaluate(model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])
    print(tunelift.compare(base, tuned))


if __name__ == "__main__":
    main()
