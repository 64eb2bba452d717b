"""tunelift's own training of a sentence model on pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ourselves import in_our_order, timed
from steps import StepClock, drop_nothing, in_an_order, read_job, read_rows, write_result

from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.records import Example, Near, Numbers, Pair
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS
from tunelift.training.run import train


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    progress.quiet = True
    session = Session.open(ModelSection(name=rows["name"]), TASKS.get("sentence-embedding"))
    session.attach({"start_from": rows["adapter"]}, 0)
    if job["no_dropout"]:
        drop_nothing(session.model)
    clock = StepClock(job["limit_seconds"])
    settings = TrainSection(batch_size=job["batch_size"], learning_rate=job["learning_rate"], micro_batch_tokens=4096)
    settings = settings.model_copy(update={"schedule": "constant", "warmup": 0.0, "seed": job["number"]})
    settings = settings.model_copy(update={"products": job.get("products", "auto")})
    pairs = in_an_order(rows["train"], job["number"])
    examples = [example(i, row, labels=bool(job.get("labels"))) for i, row in enumerate(pairs)]
    given: dict[str, Any] = {"train": in_our_order(examples, job["batch_size"], job["number"])}
    done = train(session.model, session.tokenizer, session.task, given, settings, listeners=[timed(clock)])
    for step in clock.steps:
        step["tokens"] = step["rows"]  # what is counted here are pairs
    session.save_adapter(Path(f"{job['out']}-{job['number']}"))
    write_result(**clock.figures(), fast_paths=done.fast_paths, dtype=str(session.model.dtype))


def example(i: int, row: list[Any], *, labels: bool) -> Example:
    first, second, told = row
    if isinstance(told, float):
        return Example(str(i), f"{first}\n{second}", str(told), Pair(first, second), Numbers(("score",), (told,)))
    return Example(str(i), first, second, wanted=Near(second, (), told if labels else None))


if __name__ == "__main__":
    main()
