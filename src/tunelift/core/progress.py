"""What a person sees while something long runs: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PLAIN_SECONDS = 15.0

quiet = False
"""Set by `--quiet`: no notes, no bars."""

Advance = Callable[..., None]
"""`advance(amount, note="...")`: so many units more are done; the note stands at the end of the bar."""


def note(text: str) -> None:
    """Print a line about what is going on to standard error, unless quiet."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """Show progress over `total` units; yields the function that moves it on."""
    if quiet:
        yield lambda amount=1, note="": None
    elif sys.stderr.isatty():
        with _terminal_bar(description, total) as advance:
            yield advance
    else:
        yield _plain_bar(description, total)


@contextmanager
def _terminal_bar(description: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}")
    note_column = TextColumn("{task.fields[note]}", style="dim")
    with Progress(
        text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note_column, console=Console(stderr=True)
    ) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            progress.update(task, advance=amount, **({"note": note} if note else {}))

        yield advance


def _plain_bar(description: str, total: int) -> Advance:
    state: dict[str, Any] = {"done": 0, "said": time.monotonic(), "start": time.monotonic()}

    def advance(amount: int = 1, note: str = "") -> None:
        state["done"] += amount
        now = time.monotonic()
        finished = state["done"] >= total
        if not finished and now - state["said"] < PLAIN_SECONDS:
            return
        state["said"] = now
        elapsed = now - state["start"]
        left = "" if finished else f", {elapsed / state['done'] * (total - state['done']):.0f} s left"
        tail = f" ({note})" if note else ""
        print(f"{description}: {state['done']}/{total}, {elapsed:.0f} s{left}{tail}", file=sys.stderr, flush=True)

    return advance
