"""Run by test_effects.py in a process of its own: use the library from Python, and print what is not as it was before.

Prints {stage: [names of what changed]}, without stages that changed nothing.
"""

from __future__ import annotations

import csv
import ctypes
import gc
import json
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import rich.style  # noqa: F401 - draws a random number
import sklearn.linear_model  # noqa: F401 - sets two variables for OpenMP
import torch
import transformers.modeling_utils
from transformers.utils import logging as transformers_logging

import tiny_models
from small_rows import write_rows

LARGE = 64 * 2**20
"""Bytes that glibc maps for each request, unless it was told otherwise."""

IS_MMAPPED = 2
"""The bit of the size in front of a block that says so (malloc.c)."""


def state() -> dict[str, Any]:
    """Return what a library could change for all the rest of a process."""
    mask = os.umask(0o22)
    os.umask(mask)
    catchable = [s for s in signal.Signals if s not in (signal.SIGKILL, signal.SIGSTOP)]
    loggers = [logging.getLogger(name) for name in (None, "transformers", "peft", "torch", "tunelift", "matplotlib")]
    return {
        "environment": dict(os.environ),
        "warnings": [str(one) for one in warnings.filters],
        "signals": [str(signal.getsignal(s)) for s in catchable],
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "limits": [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")],
        "umask": mask,
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)),
        "folder": str(Path.cwd()),
        "locale": locale.setlocale(locale.LC_ALL),
        "torch": [
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.mkldnn.enabled,
        ],
        "random numbers": [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())],
        "logging": [(one.level, one.handlers, one.propagate, one.disabled, one.filters) for one in loggers],
        "transformers' bars": transformers_logging.is_progress_bar_enabled(),
        "numpy": np.geterr(),
        "csv": csv.field_size_limit(),
        "hooks": [sys.path[:], sys.excepthook, sys.displayhook, threading.excepthook, warnings.showwarning],
        "recursion": sys.getrecursionlimit(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "processes": (multiprocessing.get_start_method(allow_none=True), socket.getdefaulttimeout()),
        "attention": sorted(transformers.AttentionInterface().valid_keys()),
        "malloc": keeps_freed_memory(),
    }


def keeps_freed_memory() -> bool | None:
    """Tell whether glibc takes a large block from what it keeps, rather than mapping it for this request alone."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    block = library.malloc(ctypes.c_size_t(LARGE))
    mapped = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value & IS_MMAPPED
    library.free(block)
    return not mapped


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def stages(folder: Path) -> dict[str, Callable[[], Any]]:
    import tunelift

    rows = {"train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    made: dict[str, Any] = {}

    def load() -> None:
        made["model"], made["tokenizer"] = tunelift.load(str(folder / "model"), dtype="float32")

    def evaluate() -> None:
        made["base"] = tunelift.evaluate(made["model"], made["tokenizer"], data=rows["test"])

    def tune() -> None:
        with torch.random.fork_rng():
            made["tuned"] = peft.get_peft_model(made["model"], peft.LoraConfig(target_modules="all-linear"))
        tunelift.tune(made["tuned"], made["tokenizer"], data=rows["train"], output=str(folder / "mine"), steps=3)

    def compare() -> None:
        str(tunelift.compare(made["base"], tunelift.evaluate(made["tuned"], made["tokenizer"], data=rows["test"])))

    def generate() -> None:
        tunelift.generate(made["tuned"], made["tokenizer"], ["a b"], max_new_tokens=3)

    def apply() -> None:
        tunelift.fast.apply(made["tuned"])
        tunelift.fast.restore(made["tuned"])

    def run() -> None:
        tunelift.run(
            model=str(folder / "model"), data=rows, train={"steps": 3}, dtype="float32", output=str(folder / "run")
        )

    return {f.__name__: f for f in (load, evaluate, tune, compare, generate, apply, run)}


def main(folder: Path) -> None:
    tiny_models.causal("llama").save_pretrained(folder / "model")
    tiny_models.tokenizer().save_pretrained(folder / "model")
    write_rows(folder / "train.csv", 40)
    write_rows(folder / "test.csv", 20, start=100)
    before = state()
    todo, found = stages(folder), {}
    found["import"] = changed(before, state())
    for name, act in todo.items():
        torch.rand(1)  # a state that no seed gives
        before = state()
        act()
        found[name] = changed(before, state())
    print(json.dumps({name: names for name, names in found.items() if names}))


main(Path(sys.argv[1]))
