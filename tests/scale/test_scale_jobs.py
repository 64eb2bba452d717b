"""Jobs by what they are planned to take: what would not fit together does not run together."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config, LeaderboardSection
from tunelift.core import machine
from tunelift.core.errors import InputError
from tunelift.core.machine import MemoryLimit
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.planning import plan
from tunelift.scale import jobs
from tunelift.scale.jobs import Job, run_jobs
from tunelift.scale.leaderboard import rank
from tunelift.scale.sweep import candidates, sweep


class Together:
    """Stands for `work`: knows the most bytes and the most jobs that ran at one time."""

    def __init__(self, takes: dict[str, int]) -> None:
        self.takes, self.lock = takes, threading.Lock()
        self.now, self.bytes, self.jobs = list[str](), list[int](), list[int]()

    def __call__(self, arguments: Any, log: str, threads: int, folder: str) -> int:
        with self.lock:
            self.now.append(arguments[0])
            self.bytes.append(sum(self.takes[name] for name in self.now))
            self.jobs.append(len(self.now))
        time.sleep(0.05)
        with self.lock:
            self.now.remove(arguments[0])
        return 0


def some_jobs(takes: dict[str, int], folder: Path) -> list[Job]:
    return [Job(name, [name], folder / f"{name}.log", count) for name, count in takes.items()]


@pytest.mark.parametrize(("room", "most_jobs"), [(100, 2), (None, 3)])
def test_jobs_that_would_not_fit_together_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int | None, most_jobs: int
) -> None:
    takes = {"a": 60, "b": 60, "c": 40, "d": 30, "e": 500, "f": 60, "g": 10}
    seen = Together(takes)
    monkeypatch.setattr(jobs, "work", seen)
    monkeypatch.setattr(jobs, "_room", lambda: room)
    done: list[str] = []
    run_jobs(some_jobs(takes, tmp_path), "local", 3, lambda job, code: done.append(job.name))
    assert sorted(done) == sorted(takes)
    assert max(seen.jobs) >= most_jobs
    if room:
        assert {count for count in seen.bytes if count > room} == {500}, "one that is larger than all runs alone"
        assert seen.jobs[seen.bytes.index(500)] == 1


def test_the_room_is_what_this_process_and_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    now = machine.resident()
    if now is None:
        pytest.skip("the system does not say what a process has")
    monkeypatch.setattr(machine, "usable_bytes", lambda: now.all + 10**9)
    monkeypatch.setattr(machine, "available_bytes", lambda: now.all + 10**8)
    room = jobs._room()
    assert room is not None and 0 < room < 2 * 10**8


def test_a_job_of_no_list_is_asked_for_when_the_one_before_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr(jobs, "work", lambda *_: 0)

    def asked() -> Iterator[Job]:
        for number in range(4):
            assert len(ended) == number
            yield Job(str(number), [], tmp_path / f"{number}.log")

    run_jobs(asked(), "local", 1, lambda job, code: ended.append(job.name))
    assert ended == list("0123")


def test_a_job_that_is_to_end_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "#!/bin/sh\ntrap 'echo told; told=1' TERM\nwhile [ -z $told ]; do sleep 0.1; done\nsleep 1\nexit 143\n"
    (tmp_path / "slow").write_text(script)
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "slow"))
    monkeypatch.setattr(jobs, "LOOK", 0.2)
    codes: list[int] = []
    job = Job("a", [], tmp_path / "a.log")
    began = time.monotonic()
    run_jobs([job], "local", 1, lambda job, code: codes.append(code), lambda _job: time.monotonic() - began > 0.5)
    assert codes == [143]
    assert job.log.read_text() == "told\n"


def of_sizes(tiny: dict[str, Any]) -> Config:
    made = from_keywords("train", **tiny)
    return made.model_copy(update={"sweep": {"adapter.r": [2, 16], "train.learning_rate": [1e-3, 2e-3]}})


def limited_to(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    limit = MemoryLimit("memory.max of the control group", count, count, kills=True)
    monkeypatch.setattr(machine, "memory_limits", lambda: [limit])


def test_many_plans_are_those_of_each_run(tiny: dict[str, Any]) -> None:
    found = candidates(of_sizes(tiny))
    plans = ManyPlans(found[0].config)
    name, largest = plans.largest({one.name: one.config for one in found}, anyway=False) or ("", None)
    assert largest is not None and "r-16" in name
    alone = plan(next(one.config for one in found if one.name == name), quick=True)
    own = {part.name: part.bytes for part in alone.parts if not part.name.startswith("Python")}
    assert {part.name: part.bytes for part in largest.parts if not part.name.startswith("Python")} == own
    small, large = (plans.bytes_of(one.config, whole=True) for one in (found[0], found[-1]))
    assert small and large and small <= large == largest.bytes
    assert (plans.bytes_of(found[0].config, whole=False) or 0) <= small
    assert len(plans._facts) == 2, "a learning rate changes no bytes"


def test_a_sweep_that_cannot_fit_ends_before_anything_is_trained(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(monkeypatch, 10**6)
    monkeypatch.setattr(jobs, "work", None)
    with pytest.raises(InputError, match="4 of 4 do not fit into memory: r-2,") as error:
        sweep(of_sizes(tiny))
    assert "weights" in str(error.value) and "--anyway" in str(error.value)
    assert not Path(tiny["output"]).exists()


def test_a_leaderboard_that_cannot_fit_ends_before_anything_is_trained(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(monkeypatch, 10**6)
    config = from_keywords("train", **tiny)
    board = config.model_copy(update={"leaderboard": LeaderboardSection(methods=["lora", "ia3"])})
    with pytest.raises(InputError, match="2 of 2 do not fit into memory: lora, ia3"):
        rank(board)
    assert not Path(tiny["output"]).exists()


def test_a_sweep_says_its_plan_and_passes_on_that_it_is_to_begin_anyway(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_to(monkeypatch, 10**6)
    asked: list[Job] = []

    def noted(some: list[Job], *_: Any, **__: Any) -> None:
        asked.extend(some)
        raise KeyboardInterrupt

    monkeypatch.setattr("tunelift.scale.sweep.run_jobs", noted)
    with pytest.raises(KeyboardInterrupt):
        sweep(of_sizes(tiny), anyway=True)
    assert "plan: of 4 settings r-16" in capsys.readouterr().err
    assert all(job.arguments[-1] == "--anyway" and job.bytes for job in asked)
