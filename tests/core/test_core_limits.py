"""An inner limit never lifts an outer one, nor a caller's own timer or memory limit."""

from __future__ import annotations

import csv
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest

from tunelift.core import limits, stopping, text_files
from tunelift.core.errors import InputError
from tunelift.untrusted.templates import bounded

resource = pytest.importorskip("resource")
LONG = 0.5
"""Seconds that a test would wait where no limit ended it."""


class CallersOwnError(Exception):
    """What the caller's own handler raises."""


def rang(number: int, frame: FrameType | None) -> None:
    raise CallersOwnError


@pytest.fixture(autouse=True)
def no_timer_is_left() -> Iterator[None]:
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def wait(seconds: float = LONG) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_the_outer_limit_of_time_holds_after_the_inner_one() -> None:
    with pytest.raises(InputError, match=r"^outer did not end within 0\.2"), bounded("outer", 0.2):
        with bounded("inner", 10):
            pass
        wait()


def test_the_outer_limit_of_time_holds_within_the_inner_one() -> None:
    began = time.monotonic()
    with (
        pytest.raises(InputError, match=r"^outer did not end within 0\.2"),
        bounded("outer", 0.2),
        bounded("inner", 10),
    ):
        wait()
    assert time.monotonic() - began < LONG


def test_the_inner_limit_of_time_is_the_inner_ones_alone() -> None:
    with bounded("outer", 10):
        with pytest.raises(InputError, match=r"^inner did not end within 0\.1"), bounded("inner", 0.1):
            wait()
        assert 9 < signal.getitimer(signal.ITIMER_REAL)[0] < 10
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.mark.parametrize("inside", [True, False])
def test_a_callers_own_alarm_rings_in_its_time(inside: bool) -> None:
    signal.signal(signal.SIGALRM, rang)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    began = time.monotonic()
    with pytest.raises(CallersOwnError):
        with bounded("ours", 10):
            wait(LONG if inside else 0)
        wait()
    assert 0.09 < time.monotonic() - began < LONG
    assert signal.getsignal(signal.SIGALRM) is rang


def test_a_callers_ticking_timer_neither_stops_nor_hides_our_limit() -> None:
    ticks: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: ticks.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    with pytest.raises(InputError, match=r"did not end within 0\.3"), bounded("ours", 0.3):
        wait()
    inside = len(ticks)
    wait(0.2)
    assert 3 <= inside <= 6
    assert len(ticks) - inside >= 2


def test_an_alarm_sent_by_hand_goes_to_the_callers_handler() -> None:
    signal.signal(signal.SIGALRM, rang)
    with pytest.raises(CallersOwnError), bounded("ours", 10):
        signal.raise_signal(signal.SIGALRM)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_inner_limit_of_memory_is_no_higher_and_the_outer_comes_back() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limits.memory(2**30):
        outer = resource.getrlimit(resource.RLIMIT_AS)
        with limits.memory(2**40):
            assert resource.getrlimit(resource.RLIMIT_AS) == outer
        with limits.memory(2**29):
            assert resource.getrlimit(resource.RLIMIT_AS)[0] < outer[0]
        assert resource.getrlimit(resource.RLIMIT_AS) == outer
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_limits_of_memory_that_overlap_in_threads_leave_nothing_behind() -> None:
    before, began, ended = resource.getrlimit(resource.RLIMIT_AS), threading.Event(), threading.Event()

    def other() -> None:
        with limits.memory(2**31):
            began.set()
            ended.wait(10)

    with ExitStack() as first:
        first.enter_context(limits.memory(2**30))
        thread = threading.Thread(target=other)
        thread.start()
        began.wait(10)
    assert resource.getrlimit(resource.RLIMIT_AS) != before  # the other's holds
    ended.set()
    thread.join()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_an_inner_stretch_that_waits_for_no_signal_does_not_end_the_outer_one() -> None:
    with stopping.signals(), stopping.waiting():
        with stopping.waiting(False):
            signal.raise_signal(signal.SIGTERM)
        assert stopping.asked() == signal.SIGTERM  # heard inside, and still to be obeyed
        with stopping.waiting():
            assert stopping.asked() == signal.SIGTERM
        with pytest.raises(stopping.Stopped):
            signal.raise_signal(signal.SIGTERM)
    assert stopping.asked() == 0
    with stopping.signals(), pytest.raises(stopping.Stopped):
        signal.raise_signal(signal.SIGTERM)


def test_two_csv_files_read_by_turns_have_long_fields_and_leave_csvs_own_limit(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"text,label\n{'x' * 200_000},a\n{'y' * 200_000},b\n", encoding="utf-8")
    before = csv.field_size_limit()
    first, second = (text_files.records_of(tmp_path / name, ",") for name in ("a.csv", "b.csv"))
    next(first), next(second)
    assert csv.field_size_limit() == before
    assert len([*first]) == len([*second]) == 2
