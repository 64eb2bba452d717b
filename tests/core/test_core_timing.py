"""Pieces of work are timed in turns."""

from __future__ import annotations

import time

from tunelift.core.timing import shortest


def test_works_take_turns() -> None:
    calls: list[str] = []
    both = shortest(lambda: calls.append("one"), lambda: calls.append("other"), repeats=3)
    assert calls == ["one", "other"] * 4
    assert len(both) == 2
    assert all(seconds >= 0 for seconds in both)


def test_the_shortest_run_counts_and_no_round_begins_late() -> None:
    waits = iter([0.0, 0.05, 0.0, 0.05])
    assert shortest(lambda: time.sleep(next(waits)), repeats=9, seconds=0.02)[0] >= 0.05
