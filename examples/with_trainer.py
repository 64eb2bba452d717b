"""Train with transformers' Trainer; tunelift measures before and after."""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed

import news
import tunelift


def main() -> None:
    """Measure, train, save, measure again, compare."""
    options = news.options(__doc__)
    train_rows, test_rows = news.rows(options.data, options.train_rows, options.test_rows)
    set_seed(0)

    model, tokenizer = tunelift.load(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = tunelift.evaluate(model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])

    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=options.output,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=5e-4,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
    )
    tunelift.fast.apply(model)  # the same losses, several times faster on a CPU
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=news.tokenized(tokenizer, train_rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    model.save_pretrained(options.output)

    tuned = tunelift.evaluate(model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])
    print(tunelift.compare(base, tuned))


if __name__ == "__main__":
    main()
