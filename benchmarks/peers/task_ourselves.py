"""tunelift's own training on the same tags, pairs of texts and questions, in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ourselves import in_our_order, timed
from steps import StepClock, drop_nothing, read_job, read_rows, write_result

from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.records import Example, Pair, Span, Spans, Tags, Words
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.anatomy import pad_id
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS
from tunelift.training.run import train


def main() -> None:
    job = read_job()
    data = read_rows(job)
    progress.quiet = True
    section = ModelSection(name=data["model"], dtype="float32")
    session = Session.open(section, TASKS.get(job["task"]), data["labels"], ordered=True)
    session.attach({"start_from": data["adapter"]}, 0)
    if not job["dropout"]:
        drop_nothing(session.model)
    clock = StepClock(job["limit_seconds"])
    examples = [example_of(str(i), row, data["labels"], job["kind"]) for i, row in enumerate(data["train"])]
    rows, report = session.task.rows(examples, session.tokenizer, job["max_length"], session.labels)
    first = first_loss(session, rows[: job["batch_size"]])
    settings = TrainSection(batch_size=job["batch_size"], learning_rate=job["learning_rate"], seed=job["number"])
    settings = settings.model_copy(update={"schedule": "constant", "warmup": 0.0, "max_length": job["max_length"]})
    done = train(
        session.model, session.tokenizer, session.task, {"train": examples}, settings, labels=session.labels,
        listeners=[timed(clock)], render=lambda *_: (in_our_order(rows, job["batch_size"]), report),
    )  # fmt: skip
    session.save_adapter(Path(job["out"]) / str(job["number"]))
    write_result(**clock.figures(), first_loss=first, rows=len(rows), fast_paths=done.fast_paths)


def example_of(name: str, row: dict[str, Any], labels: list[str], kind: str) -> Example:
    """Return a row as an example of its task."""
    if kind == "tags":
        words, tags = Words(tuple(row["words"])), Tags(tuple(labels[tag] for tag in row["tags"]))
        return Example(name, str(words), str(tags), words, tags)
    if kind == "pairs":
        pair = Pair(*row["texts"])
        return Example(name, str(pair), labels[row["label"]], pair)
    pair, span = Pair(row["question"], row["passage"]), Span(row["answer"], row["start"])
    return Example(name, str(pair), span.text, pair, Spans((span,)))


def first_loss(session: Session, rows: Any) -> float:
    """Return the mean loss of the first batch without dropout (nats)."""
    model, task = session.model, session.task
    with in_evaluation(model), torch.no_grad():
        batch = task.collate(rows, pad_id(model, session.tokenizer), model.device)
        return float(task.loss(model)[0](batch)) / batch.targets


if __name__ == "__main__":
    main()
