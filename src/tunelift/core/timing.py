"""What is faster here: short pieces of work timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def shortest(*works: Callable[[], Any], repeats: int = 5, seconds: float = 0.2) -> list[float]:
    """Return the shortest time of a few runs of each (s), after one that warms up; no round begins after `seconds`.

    They take turns, so that other work on the machine slows all of them and not one.
    """
    for work in works:
        work()
    best = [float("inf")] * len(works)
    begun = time.perf_counter()
    for _ in range(repeats):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
        if time.perf_counter() - begun > seconds:
            break
    return best
