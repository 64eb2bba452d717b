"""Limits of time and memory that a process sets itself for a while; those that there were before hold meanwhile too."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SOONEST, SLACK = 1e-6, 1e-3
"""Seconds: the shortest that a timer is set to (0 would stop it), and how much before its time one may ring."""


class OvertimeError(BaseException):
    """Raised inside what runs too long; no `except Exception` there can catch it."""


@contextmanager
def time(seconds: float, overtime: OvertimeError) -> Iterator[None]:
    """Raise `overtime` in the calls inside once they take longer; in the main thread, where there are signals.

    A timer that is running already (an outer limit, or the caller's own) rings in its time, and runs on afterwards.
    """
    here = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGALRM) is None:  # None: a handler that Python could not put back
        yield
        return
    alarm = _Alarm(seconds, overtime)
    signal.signal(signal.SIGALRM, alarm.rang)
    alarm.start()
    try:
        yield
    finally:
        alarm.end()


class _Alarm:
    """The process's one timer, for our deadline and for whoever had it before; times as of `time.monotonic`."""

    def __init__(self, seconds: float, overtime: OvertimeError) -> None:
        now = clock.monotonic()
        left, self.every = signal.getitimer(signal.ITIMER_REAL)
        self.deadline, self.overtime, self.ended = now + seconds, overtime, False
        self.before = signal.getsignal(signal.SIGALRM)
        self.theirs = now + left if left else math.inf

    def start(self) -> None:
        left = min(self.deadline, self.theirs) - clock.monotonic()
        signal.setitimer(signal.ITIMER_REAL, max(left, SOONEST))

    def rang(self, number: int, frame: FrameType | None) -> None:
        now = clock.monotonic() + SLACK
        if self.theirs > now >= self.deadline and not self.ended:
            raise self.overtime
        if now >= self.theirs:
            self.theirs = now + self.every if self.every else math.inf
        if not self.ended:
            self.start()
        if callable(self.before):
            self.before(number, frame)
        elif self.before == signal.SIG_DFL:  # which ends the process, as it would have without us
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def end(self) -> None:
        self.ended = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)
        if self.theirs < math.inf:
            signal.setitimer(signal.ITIMER_REAL, max(self.theirs - clock.monotonic(), SOONEST), self.every)


_lock = threading.Lock()
_in_force: list[int] = []
_without_ours = (0, 0)


@contextmanager
def memory(more_bytes: int) -> Iterator[None]:
    """Let the process have no more than `more_bytes` beyond what it has, on Linux; the lowest limit in force counts.

    Threads may begin and end such limits in any order: when the last ends there is what there was before the first.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    limit = int(pages) * resource.getpagesize() + more_bytes
    _change(_in_force.append, limit)
    try:
        yield
    finally:
        _change(_in_force.remove, limit)


def _change(change: Callable[[int], None], limit: int) -> None:
    import resource

    global _without_ours  # noqa: PLW0603  a process has one limit
    with _lock:
        if not _in_force:
            _without_ours = resource.getrlimit(resource.RLIMIT_AS)
        change(limit)
        theirs = [own for own in _without_ours if own != resource.RLIM_INFINITY]
        lowest = min([*_in_force, *theirs]) if _in_force else _without_ours[0]
        resource.setrlimit(resource.RLIMIT_AS, (lowest, _without_ours[1]))
