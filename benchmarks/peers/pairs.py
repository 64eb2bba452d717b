"""Preference pairs: rows and first adapter, TRL's DPOTrainer, and tunelift's own training, by the job's "role"."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from steps import peak_bytes, read_job, read_rows, write_result


def main() -> None:
    job = read_job()
    {"prepare": prepare, "trl": by_trl, "ours": by_us}[job["role"]](job)


def prepare(job: dict[str, Any]) -> None:
    """Write pairs on prompts of about so many tokens: worked problems and a question, its answer and another's."""
    import prepare as other

    model, tokenizer = other.model_and_tokenizer(job)
    solved = other.gsm8k(Path(job["data"]), "train")
    draw, rows = random.Random(0), []
    while len(rows) < job["steps"] * job["batch_size"]:
        question, answer = draw.choice(solved)
        prompt, wrong = question, draw.choice(solved)[1]
        while len(tokenizer(prompt)["input_ids"]) < job["prompt_tokens"]:
            prompt = "".join(draw.choice(solved)) + "\n\n" + prompt
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"][-job["prompt_tokens"] :]
        rows.append({"prompt": tokenizer.decode(ids), "chosen": answer, "rejected": wrong})
    adapter = Path(job["folder"]) / "first-adapter"
    other.first_adapter(model, adapter, head=False)
    found = {"model": model, "name": job["model"], "adapter": str(adapter), "train": rows}
    Path(job["rows"]).write_text(json.dumps(found), encoding="utf-8")
    write_result(rows=len(rows), tokens=[len(tokenizer(row["prompt"])["input_ids"]) for row in rows])


def by_trl(job: dict[str, Any]) -> None:
    """Train as TRL does, from the making of its trainer on, which reads the rows and may compute the reference."""
    import trainer as plain
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    rows = read_rows(job)
    model, tokenizer = plain.load(rows, job)
    losses, ends = list[float](), [time.perf_counter()]

    class Clocked(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    settings = DPOConfig(**plain.common_arguments(job), beta=job["beta"], **job["trl"])
    trainer = DPOTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(rows["train"]), processing_class=tokenizer
    )
    step = trainer.training_step

    def training_step(*given: Any, **named: Any) -> Any:
        loss = step(*given, **named)
        losses.append(float(loss))
        return loss

    trainer.training_step = training_step
    trainer.add_callback(Clocked())
    trainer.train()
    report(job, ends, losses)


def by_us(job: dict[str, Any]) -> None:
    """Train as a run does, from the rows on, the reference and what is tried first included."""
    import ourselves

    from tunelift.config.schema import DataSection, ModelSection, PreferencesSection, TrainSection
    from tunelift.core import progress
    from tunelift.data.examples import make_examples
    from tunelift.data.sources import read_rows as table_of
    from tunelift.data.splits import Splits
    from tunelift.evaluation import references
    from tunelift.pipeline.session import Session
    from tunelift.pipeline.tuning import put_on
    from tunelift.tasks import TASKS
    from tunelift.training.run import train

    progress.quiet = True
    references.context_of = lambda *_: None  # what an earlier round knew would spare us what the peers compute
    rows = read_rows(job)
    settings = TrainSection(batch_size=job["batch_size"], learning_rate=job["learning_rate"])
    settings = settings.model_copy(update={"schedule": "constant", "warmup": 0.0, "seed": 0})
    task = TASKS.get("preference").with_settings(PreferencesSection(beta=job["beta"]))
    session = Session.open(ModelSection(name=rows["name"], dtype=job.get("dtype", "auto")), task)
    losses, ends = list[float](), [time.perf_counter()]

    def listen(event: str, **figures: Any) -> None:
        if event == "train":
            ends.append(time.perf_counter())
            losses.append(figures["loss"])

    examples, _ = make_examples(table_of(rows["train"]), DataSection(), task.reading)
    splits = Splits(train=ourselves.in_our_order(examples, job["batch_size"]))
    put_on(session, splits, settings, {"start_from": rows["adapter"]})
    done = train(
        session.model, session.tokenizer, task, {"train": splits.train}, settings, listeners=[listen],
        render=session.rows,
    )  # fmt: skip
    report(job, ends, losses, fast_paths=done.fast_paths, dtype=str(session.model.dtype))


def report(job: dict[str, Any], ends: list[float], losses: list[float], **more: Any) -> None:
    """Write the seconds in all and of the steps behind the first, the losses and the memory."""
    later = ends[-1] - ends[1] if len(ends) > 2 else None
    pairs = job["batch_size"] * (len(ends) - 1)
    write_result(seconds=ends[-1] - ends[0], later=later, pairs=pairs, losses=losses, peak_bytes=peak_bytes(), **more)


if __name__ == "__main__":
    main()
