"""Jobs on a Ray cluster that the test starts itself: a worker that is killed costs one job at most one checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config
from tunelift.core import stopping
from tunelift.run_files.layout import CHECKPOINT_STEP
from tunelift.scale.candidates import Candidate
from tunelift.scale.jobs import ends_with_this_one, run_jobs
from tunelift.scale.sweep import candidates

SAVE_EVERY, STEPS = 5, 100
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="parents are looked up in /proc")


def test_a_process_ends_when_the_one_it_works_for_is_killed(tmp_path: Path) -> None:
    child = f"""
import os, time
from tunelift.core import stopping
with stopping.signals():
    stopping.end_with_parent()
    try:
        print(os.getpid(), flush=True)
        time.sleep(60)
    except stopping.Stopped:
        open({str(tmp_path / "stopped")!r}, "w").write("saved")
"""
    parent = f"""
import subprocess, sys, os
from tunelift.scale.jobs import ends_with_this_one
with ends_with_this_one() as (fds, told):
    subprocess.Popen([sys.executable, "-c", {child!r}], pass_fds=fds, env={{**os.environ, **told}}).wait()
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < until, "it went on alone"
        time.sleep(0.05)


def test_a_number_of_another_process_is_nothing_to_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with ends_with_this_one() as (fds, told):
        assert told == {stopping.JOB: str(fds[0])}
    for value in ("", "1", "99999"):
        monkeypatch.setenv(stopping.JOB, value)
        stopping.end_with_parent()  # standard output is no pipe of ours to wait at, and 99999 is no file at all
    time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A local cluster of two workers, in this process and ended with it: nothing of another cluster is touched."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def config_of(tiny: dict[str, Any], output: Path) -> Config:
    train = {"steps": STEPS, "save_every": SAVE_EVERY, "evaluate_every": STEPS, "learning_rate": 1e-3}
    made = from_keywords("train", **{**tiny, "train": train, "output": str(output), "forgetting": []})
    return made.model_copy(update={"sweep": {"train.learning_rate": [1e-3, 2e-3, 3e-3]}})


def trained(found: list[Candidate], on: str) -> dict[str, int]:
    codes: dict[str, int] = {}
    run_jobs([one.job() for one in found], on, 2, lambda job, code: codes.update({job.name: code}))
    return codes


def worker_of(asked: Path) -> int | None:
    """Return the process that started `tunelift tune` on this config."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"tune" in words and str(asked).encode() in words:
                return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return None


def kill_a_worker(one: Any, killed: list[int]) -> None:
    """Kill the worker of one candidate as soon as its training has a checkpoint."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        steps = [int(p.name.removeprefix(CHECKPOINT_STEP)) for p in one.paths.checkpoints.glob(f"{CHECKPOINT_STEP}*")]
        worker = worker_of(one.asked) if steps else None
        if worker is not None and worker != os.getpid():
            killed.append(max(steps))
            os.kill(worker, signal.SIGKILL)
            return
        time.sleep(0.02)


@NEEDS_PROC
def test_a_worker_that_is_killed_costs_at_most_a_checkpoint(tiny: dict[str, Any], tmp_path: Path, cluster: Any) -> None:
    found, killed = candidates(config_of(tiny, tmp_path / "on-ray")), list[int]()
    thread = threading.Thread(target=kill_a_worker, args=(found[1], killed), daemon=True)
    thread.start()
    codes = trained(found, "ray")
    thread.join(timeout=10)
    assert killed, "a worker was killed while it trained"
    assert set(codes.values()) == {0}
    assert all(one.trained for one in found)
    events = [json.loads(line) for line in found[1].paths.events.read_text().splitlines()]
    at = next(i for i, event in enumerate(events) if event["event"] == "resumed")
    resumed, before = events[at]["step"], [event["step"] for event in events[:at] if event["event"] == "train"]
    assert resumed >= killed[0]
    assert max(before) - resumed <= SAVE_EVERY
    in_turn = candidates(config_of(tiny, tmp_path / "in-turn"))
    trained(in_turn, "local")
    assert [one.loss for one in found] == [one.loss for one in in_turn]
    for one, other in zip(found, in_turn, strict=True):
        same = [(side.paths.adapter / "adapter_model.safetensors").read_bytes() for side in (one, other)]
        assert same[0] == same[1], one.name
