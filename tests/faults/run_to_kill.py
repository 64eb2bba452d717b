"""A whole run on a tiny model, small enough to be killed hundreds of times, and what must be equal when it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from disk_model import hooked

import tiny_models
from small_rows import write_rows
from tunelift.config.keywords import from_keywords
from tunelift.evaluation import run as evaluation
from tunelift.pipeline.run import run
from tunelift.training import loop, step

SAVE_EVERY = 2
ITEMS_AT_ONCE = 8
"""What Measure.at_once is to be, so that the 20 items are computed and kept in three parts."""
SAME = ("adapter/adapter_model.safetensors", "base/scores.jsonl", "tuned/scores.jsonl")
"""Files of a run folder that hold nothing of when and how often it was begun."""


def keys(folder: Path) -> dict[str, Any]:
    """Write a model and rows into `folder`, once; return the keywords of a run of 15 steps in 3 epochs."""
    if not (folder / "model").exists():
        tiny_models.causal("llama").save_pretrained(folder / "model")
        tiny_models.tokenizer().save_pretrained(folder / "model")
        write_rows(folder / "train.csv", 40)
        write_rows(folder / "test.csv", 20, start=100)
    return {
        "model": {"name": str(folder / "model"), "dtype": "float32"},
        "data": {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")},
        "train": {
            "epochs": 3, "learning_rate": 0.01, "micro_batch_tokens": 100, "evaluate_every": 4,
            "save_every": SAVE_EVERY,
        },
        "adapter": {"lora_dropout": 0.1},
        "evaluate": {"baselines": ["majority"], "forgetting": []},
    }  # fmt: skip


def run_in(folder: Path, output: Path) -> None:
    """Do the run, or go on with it."""
    run(from_keywords("train", **keys(folder), output=str(output)))


def run_killed(folder: Path, output: Path, after: int, delay: float = 0.0) -> None:
    """Do the run, and get SIGKILL `delay` seconds after the `after`-th event.

    That is a system call on files, a loss, or items computed and not yet kept. Ends with a 0 where the run has fewer
    events, and writes down how many it had.
    """
    count, kernel = 0, step.train_step

    def event(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == after:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, delay) if delay else os.kill(os.getpid(), signal.SIGKILL)

    def train_step(micro_batches: Any, loss: Any, *others: Any) -> Any:
        def counted(batch: Any) -> Any:
            event()
            return loss(batch)

        return kernel(micro_batches, counted, *others)

    loop.train_step = train_step
    _when_computed(event)
    with hooked(event):
        run_in(folder, output)
    (folder / "events").write_text(str(count))


def run_noting_items(folder: Path, output: Path, side: str = "", parts: int = 0) -> None:
    """Do the run, noting each item computed; get SIGKILL once so many parts of `side` are computed, the last not kept.

    The items are in items_computed, of every call for this output.
    """
    left = parts

    def computed(title: str, ids: Sequence[str]) -> None:
        nonlocal left
        with _noted(output).open("a") as file:
            file.writelines(f"{title} {number}\n" for number in ids)
        left -= title == side
        if title == side and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _when_computed(computed)
    run_in(folder, output)


def items_computed(output: Path, side: str) -> Counter[str]:
    """Return how often each item of a side was computed, by `run_noting_items`."""
    lines = [line.rpartition(" ") for line in _noted(output).read_text().splitlines()]
    return Counter(number for title, _, number in lines if title == side)


def _noted(output: Path) -> Path:
    return output.with_name(f"{output.name}.items")


def _when_computed(heard: Callable[[str, Sequence[str]], None]) -> None:
    """Have `heard(title, ids)` called, in this process, whenever items were computed and are not yet kept."""
    plain = evaluation._found

    def found(measure: Any, made_with: Any) -> Any:
        prepared = measure.prepared

        def noted() -> Any:
            compute = prepared()

            def computed(some: Sequence[int], advance: Any) -> Any:
                values = compute(some, advance)
                heard(measure.title, [measure.examples[i].id for i in some])
                return values

            return computed

        measure.prepared = noted
        try:
            return plain(measure, made_with)
        finally:
            del measure.prepared  # of which copies are made

    evaluation._found = found


def result(output: Path) -> dict[str, str]:
    """Return the hash of each file that must be the same however often the run was killed."""
    assert json.loads((output / "manifest.json").read_text())["status"] == "complete"
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in SAME}


def steps_done_again(output: Path) -> int:
    """Return how many steps were done more than once, by the events."""
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    steps = Counter(event["step"] for event in events if event["event"] == "train")
    return steps.total() - len(steps)
