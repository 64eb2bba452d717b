"""Train with TRL's SFTTrainer, which puts the adapter on itself; tunelift measures before and after."""

from __future__ import annotations

from datasets import Dataset
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

import news
import tunelift


def main() -> None:
    """Measure, train, save, measure again, compare."""
    options = news.options(__doc__)
    train_rows, test_rows = news.rows(options.data, options.train_rows, options.test_rows)
    set_seed(0)

    model, tokenizer = tunelift.load(options.model)
    base = tunelift.evaluate(model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])

    arguments = SFTConfig(
        output_dir=options.output,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=5e-4,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        bf16=False,  # the model keeps the precision it was loaded in; TRL's own default needs a GPU
        gradient_checkpointing=False,  # a small model fits without
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(train_rows),  # prompt and completion: the loss is on the completion
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()

    tuned = tunelift.evaluate(trainer.model, tokenizer, data=test_rows, metrics=["accuracy", "loss"])
    print(tunelift.compare(base, tuned))


if __name__ == "__main__":
    main()
