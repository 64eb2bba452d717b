"""What a person sees while something long runs: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

PLAIN_SECONDS = 15.0

quiet = False
"""Set by `--quiet`: no notes, no bars."""

Advance = Callable[..., None]
"""`advance(amount, note="...")`: so many units more are done; the note stands at the end of the bar."""


def note(text: str) -> None:
    """Print a line about what is going on to standard error, unless quiet."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


@cache
def note_once(text: str) -> None:
    """Print a line the first time only."""
    note(text)


@contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """Show progress over `total` units; yields the function that moves it on."""
    if quiet:
        yield lambda *_, **__: None
    elif sys.stderr.isatty():
        with _terminal_bar(description, total) as advance:
            yield advance
    else:
        yield _PlainBar(description, total)


@contextmanager
def silenced() -> Iterator[None]:
    """Show nothing for a while."""
    global quiet  # noqa: PLW0603  the one switch that --quiet sets
    was, quiet = quiet, True
    try:
        yield
    finally:
        quiet = was


@contextmanager
def _terminal_bar(description: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            progress.advance(task, amount)
            if note:
                progress.update(task, note=note)

        yield advance


class _PlainBar:
    """A line every PLAIN_SECONDS, and one at the end."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = description, total, 0
        self.began = self.said = time.monotonic()

    def __call__(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if amount == 0 or (self.done < self.total and now - self.said < PLAIN_SECONDS):
            return
        self.said, elapsed = now, now - self.began
        left = f", {elapsed / self.done * (self.total - self.done):.0f} s left" if self.done < self.total else ""
        tail = f" ({note})" if note else ""
        print(f"{self.description}: {self.done}/{self.total}, {elapsed:.0f} s{left}{tail}", file=sys.stderr, flush=True)
