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
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config
from tunelift.core import machine, stopping
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.stages import tune_stage
from tunelift.run_files.layout import CHECKPOINT_STEP
from tunelift.scale import jobs
from tunelift.scale.jobs import Job, ends_with_this_one, run_jobs
from tunelift.scale.sweep import candidates

SAVE_EVERY, STEPS, RUNS = 5, 60, 12
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="parents are looked up in /proc")


def test_a_process_ends_when_the_one_it_works_for_is_killed(tmp_path: Path) -> None:
    child = f"""
import os, time
from tunelift.core import machine, stopping
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.stages import tune_stage
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
    return made.model_copy(update={"sweep": {"train.learning_rate": [1e-3 * n for n in range(1, RUNS + 1)]}})


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
    plans, codes = ManyPlans(found[0].config), dict[str, int]()
    run_jobs([one.job(plans) for one in found], "ray", 2, lambda job, code: codes.update({job.name: code}))
    thread.join(timeout=10)
    assert killed, "a worker was killed while it trained"
    assert set(codes.values()) == {0}
    assert all(one.trained for one in found)
    events = [json.loads(line) for line in found[1].paths.events.read_text().splitlines()]
    at = next(i for i, event in enumerate(events) if event["event"] == "resumed")
    resumed, before = events[at]["step"], [event["step"] for event in events[:at] if event["event"] == "train"]
    assert resumed >= killed[0]
    assert max(before) - resumed <= SAVE_EVERY
    in_turn, threads = candidates(config_of(tiny, tmp_path / "in-turn")), torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two at once has on two cores
    try:
        for one in in_turn:
            tune_stage(one.config, beside_test=True)
    finally:
        torch.set_num_threads(threads)
    assert len(found) == RUNS
    assert [one.loss for one in found] == [one.loss for one in in_turn]
    for one, other in zip(found, in_turn, strict=True):
        same = [(side.paths.adapter / "adapter_model.safetensors").read_bytes() for side in (one, other)]
        assert same[0] == same[1], one.name


def test_what_would_not_fit_together_is_not_put_together(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what takes more cores or memory than any machine of the cluster has runs all the same, alone."""

    def work(arguments: list[str], log: str, threads: int, folder: str) -> int:
        began = time.time()
        time.sleep(0.5)
        Path(log).write_text(f"{began} {time.time()} {threads}")
        return 0

    monkeypatch.setattr(jobs, "work", work)
    memory = next(int(node["Resources"]["memory"]) for node in cluster.nodes())

    def together(takes: int | None, at_once: int) -> tuple[bool, int]:
        some = [Job(str(number), [], tmp_path / f"{number}.log", takes) for number in range(3)]
        run_jobs(some, "ray", at_once, lambda job, code: None)
        spans = [[float(word) for word in job.log.read_text().split()] for job in some]
        spans.sort()
        return any(later[0] < before[1] for before, later in pairwise(spans)), int(spans[0][2])

    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert together(None, 2) == (True, 1)
    assert together(int(0.6 * memory), 2) == (False, 1)
    assert together(10 * memory, 2) == (False, 1)
    monkeypatch.setattr(machine, "cores", lambda: 64)
    assert together(None, 1) == (False, 2), "no machine of the cluster has 64 cores"


def test_a_task_that_is_told_to_end_has_its_command_save_and_end(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "#!/bin/sh\ntrap 'echo saved; exit 143' TERM\necho begun\nwhile true; do sleep 0.1; done\n"
    (tmp_path / "slow").write_text(script)
    (tmp_path / "slow").chmod(0o755)
    real, program = jobs.work, str(tmp_path / "slow")

    def work(*given: Any) -> int:
        sys.executable = program
        return int(real(*given))

    monkeypatch.setattr(jobs, "work", work)
    job, codes = Job("a", [], tmp_path / "a.log"), list[int]()
    begun = lambda job: job.log.is_file() and "begun" in job.log.read_text()  # noqa: E731
    run_jobs([job], "ray", 2, lambda job, code: codes.append(code), begun)
    until = time.monotonic() + 30
    while "saved" not in job.log.read_text():
        assert time.monotonic() < until, job.log.read_text()
        time.sleep(0.1)
    assert codes == [1]
