"""What every trained setting reports: seconds of start-up and of each step, rows, tokens, loss, peak memory."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any


def read_job() -> dict[str, Any]:
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def write_result(**figures: Any) -> None:
    Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")


def read_rows(job: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(job["rows"]).read_text(encoding="utf-8"))


def in_an_order(rows: list[Any], number: int) -> list[Any]:
    """Return the rows in the order of the run of this number, the same for every trainer."""
    return random.Random(number).sample(rows, len(rows))


def peak_bytes() -> int | None:
    """Return the largest memory this process has held: of the GPU where torch used one, else resident memory."""
    torch = sys.modules.get("torch")  # which not every peer has
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def drop_nothing(model: Any) -> None:
    """Set all of a model's dropout to 0."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


class StepClock:
    """Times steps from end to end, collation included; stops the process if the first takes longer than the limit."""

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self.steps: list[dict[str, Any]] = []
        self.startup_seconds = 0.0

    def begin(self, seconds_ago: float = 0.0) -> None:
        """Start-up is over, or was so many seconds ago; the first step begins."""
        self.startup_seconds = time.time() - seconds_ago - float(os.environ["RUN_BEGAN"])
        self.watch = threading.Timer(self.limit_seconds, self._stop)
        self.watch.daemon = True
        self.watch.start()
        self.last = time.perf_counter() - seconds_ago

    def step(self, **figures: Any) -> None:
        """A step is over; `figures` are its rows, real tokens and mean loss per target (nats)."""
        now = time.perf_counter()
        self.watch.cancel()
        self.steps.append({"seconds": now - self.last, **figures})
        self.last = now

    def figures(self) -> dict[str, Any]:
        return {"startup_seconds": self.startup_seconds, "steps": self.steps, "peak_bytes": peak_bytes()}

    def _stop(self) -> None:
        write_result(stopped=f"over {self.limit_seconds:.0f} s for its first step", peak_bytes=peak_bytes())
        os._exit(0)
