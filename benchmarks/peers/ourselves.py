"""tunelift's own training on the same rows, and the share of its step that its frozen products take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps import StepClock, read_job, read_rows, write_result

from tunelift.config.schema import ModelSection, TrainSection
from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS
from tunelift.training.batches import Sizes, plan_steps
from tunelift.training.loop import Listener
from tunelift.training.run import Trained, train


def main() -> None:
    job = read_job()
    rows = read_rows(job)
    progress.quiet = True
    session = opened(rows, job)
    clock = StepClock(job["limit_seconds"])
    examples = [Example(str(i), row["prompt"], row["completion"]) for i, row in enumerate(rows["train"])]
    done = run(session, examples, job, timed(clock))
    count_tokens(clock, [len(row["input_ids"]) for row in rows["train"]])
    figures = clock.figures() | {"fast_paths": done.fast_paths, "dtype": str(session.model.dtype)}
    figures["dtype_reason"] = session.dtype_reason
    session.save_adapter(Path(job["out"]))
    if job.get("limit"):
        figures["limit"] = limit(session, examples[-job["batch_size"] :], job, clock.steps[-1]["seconds"])
    write_result(**figures)


def opened(rows: dict[str, Any], job: dict[str, Any]) -> Session:
    """Load the model, and the adapter that everybody begins with."""
    task, labels = ("sequence-classification", ["0", "1"]) if job.get("head") else ("causal-lm", [])
    held = job.get("quantization", "none")
    section = ModelSection(name=job.get("base", rows["name"]), dtype=job.get("dtype", "auto"), quantization=held)
    session = Session.open(section, TASKS.get(task), labels)
    session.attach({"start_from": rows["adapter"]}, 0)
    return session


def run(session: Session, examples: list[Example], job: dict[str, Any], listen: Listener) -> Trained:
    """Train one epoch with the settings that the peers have, on the rows in the order given."""
    settings = TrainSection(batch_size=job["batch_size"], learning_rate=job["learning_rate"])
    settings = settings.model_copy(update={"schedule": "constant", "warmup": 0.0, "seed": 0})
    settings = settings.model_copy(update={"products": job.get("products", "auto")})
    rows = {"train": in_our_order(examples, job["batch_size"])}
    return train(
        session.model, session.tokenizer, session.task, rows, settings, labels=session.labels, listeners=[listen]
    )


def timed(clock: StepClock) -> Listener:
    """Return a listener that tells the clock of every step; all that comes before the loop is start-up."""

    def listen(event: str, **figures: Any) -> None:
        if event == "train":
            if not clock.steps:
                clock.begin(seconds_ago=figures["seconds"])
            clock.step(rows=figures["rows"], loss=figures["loss"])

    return listen


def count_tokens(clock: StepClock, lengths: list[int]) -> None:
    """Give each step the tokens of its rows as the file has them: a prefix computed once counts for every row."""
    start = 0
    for step in clock.steps:
        step["tokens"] = sum(lengths[start : start + step["rows"]])
        start += step["rows"]


def in_our_order(examples: list[Example], batch_size: int, seed: int = 0) -> list[Example]:
    """Arrange the rows so that our loop, which shuffles them, takes them in the order of the file."""
    plan = plan_steps(Sizes([1] * len(examples)), batch_size, 1, None, seed, 2**31)
    visited = [row for step in plan for group in step for row in group]
    arranged = list(examples)
    for place, example in zip(visited, examples, strict=True):
        arranged[place] = example
    return arranged


def limit(session: Session, last: list[Example], job: dict[str, Any], step_seconds: float) -> dict[str, Any]:
    """Take the last step twice more, recording the frozen products of the second, and replay these alone."""
    from frozen_products import recorded, replayed

    def forget_the_first(event: str, **figures: Any) -> None:
        if event == "train" and not forgotten:
            forgotten.append(figures["step"])
            recorder.forget()  # the products of the checks before the loop with them

    forgotten: list[int] = []
    with recorded(session.model) as recorder:
        run(session, last * 2, job, forget_the_first)
    products = recorder.products
    seconds = sorted(replayed(products) for _ in range(job["replays"]))[job["replays"] // 2]
    flops = sum(product.flops for product in products)
    return {
        "products": len(products),
        "seconds": seconds,
        "step_seconds": step_seconds,
        "share": seconds / step_seconds,
        "gflops_per_second": flops / seconds / 1e9,
        "profile": profile(session, last, job),
    }


PARTS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"),
    "LoRA's thin products": ("_LoraLinears",),
    "attention": ("aten::_scaled_dot_product", "_Attention"),
}


def profile(session: Session, last: list[Example], job: dict[str, Any]) -> dict[str, float]:
    """Return the shares of the last step's processor time by kind of operation, as torch's profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU])

    def second_step(event: str, **figures: Any) -> None:
        if event == "train":
            profiler.start() if figures["step"] == 1 else profiler.stop()

    run(session, last * 2, job, second_step)
    shares = dict.fromkeys((*PARTS, "all else"), 0.0)
    for operation in profiler.key_averages():
        kind = next((kind for kind, names in PARTS.items() if operation.key.startswith(names)), "all else")
        shares[kind] += operation.self_cpu_time_total
    total = sum(shares.values())
    return {kind: part / total for kind, part in shares.items()}


if __name__ == "__main__":
    main()
