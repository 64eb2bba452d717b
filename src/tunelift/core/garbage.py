"""When Python looks for garbage: not among what stays. A vocabulary is a million objects, 0.25 s at each look."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_looked_for() -> Iterator[None]:
    """Let nothing be looked through while a lot is made that stays; afterwards it counts as old."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        with not_among_what_is():
            pass  # what was set aside comes back among the oldest, which are looked through least
        if enabled:
            gc.enable()


@contextmanager
def not_among_what_is() -> Iterator[None]:
    """Let garbage be looked for among what the calls inside make, not among all that there is already.

    Where somebody else has set objects aside already, nothing is done: theirs would come back with ours.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def left_where_it_is() -> None:
    """Let what there is be given back to the machine by the end of the process, not taken apart piece by piece.

    Python looks for garbage several times as it ends: after torch, transformers and peft that takes a second. Functions
    that `atexit` knows run as ever, and files are closed where they are referred to no more.
    """
    gc.freeze()
