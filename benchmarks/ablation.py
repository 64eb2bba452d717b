"""What each fast path gives alone: the same training steps with one of them off, in turns in one process.

    python benchmarks/ablation.py [--quick] [--rows gsm8k,sst2,sst2-8shot] [--out FILE.json]

Gemma 3 270M, LoRA r=8 on all linear layers, batches of 8 rows. Each row of the table is the median over the steps of
the seconds without that path, over the seconds of the same step with all of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import side_by_side
import torch
from side_by_side import Result, Setting

from tunelift.config.schema import ModelSection
from tunelift.core import garbage
from tunelift.fast import block_attention, frozen, kernels
from tunelift.fast.frozen import frozen_products
from tunelift.fast.fusing import fuse_passes
from tunelift.fast.lora import fuse
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.undo import Undo
from tunelift.fast.whole_logits import WholeLogits
from tunelift.model_facts.anatomy import pad_id
from tunelift.pipeline.session import Session
from tunelift.tasks.base import TASKS, Batch, Row
from tunelift.training.batches import micro_batches, sizes

STEPS = {"sst2": 5, "sst2-8shot": 3, "gsm8k": 2}
BATCH, TOKENS = 8, 1024

OFF: dict[str, Callable[[TargetOnly], None]] = {
    "all on": lambda view: None,
    "shared beginnings": lambda view: setattr(view, "shares", False),
    "packing": lambda view: setattr(view, "packs", False),
    "skipped tiles": lambda view: setattr(view.frozen, "skip_below", 0.0),
    "likely tokens first": lambda view: setattr(view.frozen, "likely_first", None),
    "last layer at what is read": lambda view: setattr(view, "last", None),
    "fused LoRA": lambda view: None,
    "packed weights": lambda view: None,
    "products by oneDNN": lambda view: None,
    "kernels in C": lambda view: None,
    "attention in C": lambda view: None,
    "target-only head": lambda view: None,
}


def main() -> None:
    options = side_by_side.arguments(__doc__, lambda p: p.add_argument("--rows", default=",".join(STEPS)))
    figures: Result = side_by_side.facts() | {"kinds": {}}
    side_by_side.print_facts(figures)
    for kind in options.rows.split(","):
        steps = 1 if options.quick else STEPS[kind]
        seconds = measured(kind, steps, options.data)
        table = []
        for name, taken in seconds.items():
            slower = [t / whole for t, whole in zip(taken, seconds["all on"], strict=True)]
            ratio = "" if name == "all on" else f"{statistics.median(slower):.2f}x"
            table.append({"without": name, "s/step": f"{statistics.median(taken):.2f}", "takes": ratio})
        side_by_side.print_table(f"{kind}: {steps} steps", table)
        figures["kinds"][kind] = seconds
        side_by_side.finish(options.out, figures)


def measured(kind: str, steps: int, data: Path) -> dict[str, list[float]]:
    """Return the seconds of each step without each fast path."""
    with tempfile.TemporaryDirectory() as scratch:
        job = {"kind": kind, "model": "gemma3-270m", "steps": steps, "batch_size": BATCH, "held_out": 1}
        job |= {"data": str(data.resolve()), "folder": scratch}
        side_by_side.measure(Setting("rows", "prepare.py", sys.executable, job), Path(scratch))
        found = json.loads((Path(scratch) / "rows.json").read_text(encoding="utf-8"))
    rows = [Row(row["input_ids"], row["labels"]) for row in found["train"]]
    session = Session.open(ModelSection(name="gemma3-270m"), TASKS.get("causal-lm"))
    session.attach({"method": "lora", "r": 8, "target_modules": "all-linear"}, 0)
    trainer = Trainer(session, rows)
    trainer.step(0, "all on")  # the first touch of everything
    seconds: dict[str, list[float]] = {name: [] for name in OFF}
    for number in range(steps):
        for name in OFF:
            seconds[name].append(trainer.step(number, name))
    return seconds


class Trainer:
    """One model, and steps on its rows with one fast path off."""

    def __init__(self, session: Session, rows: Sequence[Row]) -> None:
        self.session, self.rows, self.model = session, rows, session.model
        self.task, self.pad = TASKS.get("causal-lm"), pad_id(session.model, session.tokenizer)
        self.model.train()
        view, _ = target_model(self.model)
        assert isinstance(view, TargetOnly)
        first = self.batch(rows[:BATCH])
        view.expect(first.inputs, first.labels)
        self.likely_first = view.frozen.likely_first

    def batch(self, rows: Sequence[Row]) -> Batch:
        return self.task.collate(rows, self.pad, torch.device("cpu"))

    def step(self, number: int, off: str) -> float:
        """Return the seconds of forward and backward over one step's rows."""
        some = self.rows[number * BATCH : (number + 1) * BATCH]
        view, _ = target_model(self.model)
        assert isinstance(view, TargetOnly)
        view.frozen.likely_first = self.likely_first
        OFF[off](view)
        packs, shares = view.packs and off != "target-only head", view.shares and off != "target-only head"
        firsts = [next(i for i, label in enumerate(row.labels) if label != -100) for row in some]
        cost = sizes([row.ids for row in some], firsts if shares else [0] * len(some), packs)
        loss: Any = WholeLogits(self.model).loss_sum if off == "target-only head" else view.loss_sum
        with layers_without(self.model, off):
            began = time.perf_counter()
            for group in micro_batches(range(len(some)), cost, TOKENS):
                batch = self.batch([some[i] for i in group])
                loss(batch.inputs, batch.labels).backward()
            taken = time.perf_counter() - began
        self.model.zero_grad()
        return taken


@contextmanager
def layers_without(model: Any, off: str) -> Iterator[None]:
    """Let the model's layers run fused, all but one way to do so."""
    undo, longest = Undo(), block_attention.SCORES_AT_MOST
    if off != "fused LoRA":
        fuse(model, undo)
    if off != "products by oneDNN":
        frozen_products(model, undo, "none" if off == "packed weights" else "both")
    by_onednn, frozen._found[:] = list(frozen._found), [off != "products by oneDNN"]
    block_attention.SCORES_AT_MOST = 0 if off == "attention in C" else longest
    try:
        with kernels.without() if off == "kernels in C" else nullcontext():
            if off != "kernels in C":
                fuse_passes(model, undo)
            with garbage.not_among_what_is():
                yield
    finally:
        undo.all()
        block_attention.SCORES_AT_MOST, frozen._found[:] = longest, by_onednn


if __name__ == "__main__":
    main()
