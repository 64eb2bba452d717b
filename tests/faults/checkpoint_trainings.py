"""Tiny trainings to cut off: built anew each time from the same seeds, so that only the store carries anything over."""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny_models
from tunelift.config.schema import TrainSection
from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.tasks.base import TASKS, Batch
from tunelift.training.run import Trained, train

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "the", "dog"]


def examples(count: int, start: int = 0) -> list[Example]:
    return [
        Example(str(i), " ".join(WORDS[: 2 + i % 7]), f" {WORDS[i % 5]} {i}", cluster=None)
        for i in range(start, start + count)
    ]


SETTINGS = {"epochs": 3, "batch_size": 4, "micro_batch_tokens": 40, "learning_rate": 0.01, "save_every": 2}
"""14 rows in 4 steps of up to 4 rows an epoch, in several micro-batches each: 12 steps."""


class Watched:
    """The causal task, its loss in training passed through `watch(batch, loss)`, whatever way the loss is computed."""

    def __init__(self, watch: Callable[[Batch, Tensor], Tensor]) -> None:
        self.watch, self.plain = watch, TASKS.get("causal-lm")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def loss(self, model: Any, some: Any = None) -> Any:
        plain, paths = self.plain.loss(model, some)
        return lambda batch: self.watch(batch, plain(batch)) if model.training else plain(batch), paths


def trained(
    folder: Path | None, listeners: Any = (), model: Any = None, task: Any = None, held_out: int = 0, **settings: Any
) -> tuple[Trained, dict[str, Tensor]]:
    """Train a tiny adapter (with dropout), keeping its state in `folder`; return the account and the adapter."""
    model = model or tiny_models.adapted(tiny_models.causal("llama"), lora_dropout=0.1)
    rows = {"train": examples(14), "validation": examples(held_out, 50)}
    section = TrainSection(**{**SETTINGS, **settings})
    with progress.silenced():
        done = train(
            model, tiny_models.tokenizer(), task or TASKS.get("causal-lm"), rows, section, listeners=listeners,
            checkpoints=folder,
        )  # fmt: skip
    return done, {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def fingerprint(adapter: dict[str, Tensor]) -> str:
    """Return a hash of every byte of an adapter."""
    both = b"".join(name.encode() + adapter[name].numpy().tobytes() for name in sorted(adapter))
    return hashlib.sha256(both).hexdigest()


class CutOffError(Exception):
    """The training ends here, in the middle of whatever it was doing."""


def cut_off(folder: Path, after: int, **settings: Any) -> list[str]:
    """Train until the `after`-th event, and end there; return the events."""
    seen: list[str] = []

    def listener(event: str, **figures: Any) -> None:
        seen.append(event)
        if len(seen) == after:
            raise CutOffError

    try:
        trained(folder, [listener], **settings)
    except CutOffError:
        return seen
    raise AssertionError(f"There were only {len(seen)} events.")


def in_child(action: Callable[[], Any]) -> int:
    """Run `action` in a forked process; return its exit code, or minus the signal it died of."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            torch.set_num_threads(1)
            action()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
