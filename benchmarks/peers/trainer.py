"""transformers' Trainer with peft (plain, with cut-cross-entropy's loss, or with our fast paths), and TRL's."""

from __future__ import annotations

import tempfile
from typing import Any

from steps import StepClock, read_job, read_rows, write_result


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    model, tokenizer = load(rows, job)
    fast_paths = apply_ours(model) if job.get("apply") else {}
    clock = StepClock(job["limit_seconds"])
    trainer = trl_trainer if "trl" in job else plain_trainer
    train_timed(trainer(model, tokenizer, data_set(rows["train"]), job), clock)
    write_result(**clock.figures(), fast_paths=fast_paths)
    model.save_pretrained(job["out"])


def load(rows: dict[str, Any], job: dict[str, Any]) -> tuple[Any, Any]:
    """Return the model with the initial adapter on it, trainable, and its tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    kind = AutoModelForSequenceClassification if job.get("head") else AutoModelForCausalLM
    heads = {"num_labels": 2} if job.get("head") else {}
    dtype = getattr(torch, job.get("dtype", "float32"))
    torch.manual_seed(0)
    source, more = job.get("base", rows["model"]), heads | few_bits(job, dtype)
    model = kind.from_pretrained(source, dtype=dtype, attn_implementation="sdpa", **more)
    tokenizer = AutoTokenizer.from_pretrained(rows["model"], padding_side="right")
    return PeftModel.from_pretrained(model, rows["adapter"], is_trainable=True), tokenizer


def few_bits(job: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Return what stock transformers is told of a base in few bits, whose products are in `dtype`."""
    if "base" in job:  # whose config.json says the rest
        return {"device_map": "cpu"}
    if "quantization" not in job:
        return {}
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=job["quantization"], bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": how, "device_map": "cpu"}


def apply_ours(model: Any) -> dict[str, str]:
    from tunelift import fast

    return fast.apply(model)


def common_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """Return what Trainer and TRL are told alike."""
    import torch

    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": job["batch_size"],
        "num_train_epochs": 1,
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": job.get("sampling", "sequential"),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        "use_cpu": not torch.accelerator.is_available(),  # bf16 is refused on a CPU that is not named
    }


def plain_trainer(model: Any, tokenizer: Any, train_dataset: Any, job: dict[str, Any]) -> Any:
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, TrainingArguments

    args = TrainingArguments(**common_arguments(job), bf16=job.get("bf16", False), remove_unused_columns=False)
    collator = DataCollatorWithPadding(tokenizer) if job.get("head") else DataCollatorForSeq2Seq(tokenizer)
    return trainer_class(job)(model=model, args=args, train_dataset=train_dataset, data_collator=collator)


def trl_trainer(model: Any, tokenizer: Any, train_dataset: Any, job: dict[str, Any]) -> Any:
    """TRL trains on ready ids and labels as they are; its own loading has the weights in float32 too."""
    from trl import SFTConfig, SFTTrainer

    args = SFTConfig(**common_arguments(job), **job["trl"])
    return SFTTrainer(model=model, args=args, train_dataset=train_dataset, processing_class=tokenizer)


def data_set(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])


def trainer_class(job: dict[str, Any]) -> Any:
    from transformers import Trainer

    if not job.get("cut_cross_entropy"):
        return Trainer

    class WithCutCrossEntropy(Trainer):
        """The loss of cut-cross-entropy from the decoder's last hidden states, as its documentation shows."""

        def compute_loss(self, model: Any, inputs: Any, *_: Any, num_items_in_batch: Any = None, **__: Any) -> Any:
            from cut_cross_entropy import linear_cross_entropy

            base = model.get_base_model()
            with self.accelerator.autocast():  # which accelerate puts around the model's own forward alone
                hidden = base.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
                total = linear_cross_entropy(
                    hidden, base.lm_head.weight, inputs["labels"], shift=True, reduction="sum", impl="torch_compile"
                )
            return total / num_items_in_batch

    return WithCutCrossEntropy


def train_timed(trainer: Any, clock: StepClock) -> None:
    """Train, telling the clock of every step; one step is one batch here."""
    from transformers import TrainerCallback

    plain, seen = trainer.training_step, {}

    def training_step(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        seen["rows"], seen["computed"] = len(inputs["input_ids"]), inputs["input_ids"].numel()
        seen["tokens"] = int(inputs["attention_mask"].sum())  # a model may pad with the token that ends its rows
        loss = plain(model, inputs, *rest, **named)
        seen["loss"] = float(loss)
        return loss

    class Clocked(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step(**seen)

    trainer.training_step = training_step
    trainer.add_callback(Clocked())
    trainer.train()


if __name__ == "__main__":
    main()
