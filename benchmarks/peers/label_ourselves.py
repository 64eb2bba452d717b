"""tunelift's own training of a classifier on few rows, and its accuracy on the test rows."""

from __future__ import annotations

import time
from typing import Any

from steps import peak_bytes, read_job, read_rows, write_result

from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.evaluation.plan import Plan
from tunelift.metrics import resolve
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS
from tunelift.training.run import train


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    progress.quiet = True
    examples, test = examples_of(rows["train"][job["number"]]), examples_of(rows["test"])
    settings = TrainSection(
        batch_size=job["batch_size"], epochs=job["epochs"], learning_rate=job["learning_rate"], seed=job["number"]
    )
    section = ModelSection(name=rows["name"], dtype="float32" if job["method"] == "full" else "auto")
    session = Session.open(section, TASKS.get("sequence-classification"), rows["labels"], job["number"])
    began = time.monotonic()
    session.will_train(examples, settings)
    session.attach({"method": job["method"]}, job["number"])
    train(session.model, session.tokenizer, session.task, {"train": examples}, settings, labels=session.labels)
    seconds = time.monotonic() - began
    plan = Plan(resolve(["accuracy"]), task=session.task, labels=session.labels, max_length=settings.max_length)
    accuracy = session.score(test, plan, "test").metrics["accuracy"]
    write_result(seconds=seconds, accuracy=accuracy, peak_bytes=peak_bytes(), dtype=str(session.model.dtype))


def examples_of(rows: list[Any]) -> list[Example]:
    return [Example(str(number), text, label) for number, (text, label) in enumerate(rows)]


if __name__ == "__main__":
    main()
