"""Being asked to stop: the first signal lets what is being done end and be saved, the second stops at once."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONCE_MORE = b"\nStopping when this step is done and saved; once more stops at once.\n"

JOB = "TUNELIFT_JOB"
"""In the environment of a process that works for another: the end of a pipe that closes when that one dies."""

_waits = False
_asked: int | None = None


class Stopped(KeyboardInterrupt):
    """A signal to stop, obeyed. `exit_code` is 130 for Ctrl-C and 143 for SIGTERM, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Stopped for a while: at once, or within `waiting` when its code asks for it."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.signal(number, _heard) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: Python had not put it there


def end_with_parent() -> None:
    """In a process that works for another, take the end of that one for a signal to save and stop."""
    if not os.environ.get(JOB, "").isdigit():
        return
    end = int(os.environ[JOB])

    def wait() -> None:
        with suppress(OSError):  # the number may be another process's, of whose pipe this one is no part
            os.set_inheritable(end, False)
            if stat.S_ISFIFO(os.fstat(end).st_mode) and not os.read(end, 1):
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def waiting(waits: bool = True) -> Iterator[None]:
    """Let the first signal wait for `asked` for a while, where the process listens to `signals`.

    Inside another such stretch it waits as it did, for the outer one too.
    """
    global _waits, _asked
    outer = _waits
    if not outer:
        _waits, _asked = waits, None
    try:
        yield
    finally:
        if not outer:
            _waits, _asked = False, None


def asked() -> int:
    """Return the number of the signal that waits, or 0."""
    return _asked or 0


def _heard(number: int, frame: FrameType | None) -> None:
    global _asked  # noqa: PLW0603  a process has one set of signal handlers
    if not _waits or _asked is not None:
        raise Stopped(number)
    _asked = number
    os.write(2, ONCE_MORE)  # print may be what was interrupted
