"""Sweeps and leaderboards that are kept at an address: gone on with there, whatever machine is lost."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from bucket import s3_bucket

from tunelift.config.keywords import from_keywords
from tunelift.config.load import load_config
from tunelift.config.schema import Config, LeaderboardSection
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.run import run
from tunelift.pipeline.stages import tune_stage
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import CHECKPOINT_STEP, LeaderboardPaths, RunPaths, SweepPaths
from tunelift.scale import jobs
from tunelift.scale.candidates import Candidate
from tunelift.scale.jobs import Job, run_jobs
from tunelift.scale.leaderboard import rank
from tunelift.scale.remote import Remote
from tunelift.scale.storage import Kept, Storage
from tunelift.scale.sweep import candidates, sweep

pytest.importorskip("fsspec", reason="fsspec is not installed")
SAVE_EVERY, STEPS = 5, 400


@pytest.fixture(params=["file", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/sweep"
    else:
        with s3_bucket(monkeypatch) as bucket:
            yield f"{bucket}/sweep"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have commands run in this process, which is quicker; return the folders that they wrote."""
    wrote: list[Path] = []

    def work(arguments: Any, log: str, threads: int, folder: str, **named: Any) -> int:
        output = Path(arguments[arguments.index("--output") + 1])
        config = load_config(arguments[1]).model_copy(update={"output": str(output)})
        wrote.append(output)
        Path(log).write_text("said\n")
        try:
            if arguments[0] == "tune":
                tune_stage(config, beside_test="--beside-test" in arguments)
            else:
                run(config, chosen=Chosen.read(Path(arguments[arguments.index("--chosen") + 1])))
        except InputError as error:
            Path(log).write_text(str(error))
            return error.exit_code
        named["meanwhile"]()
        return 0

    monkeypatch.setattr(jobs, "work", work)
    return wrote


def swept(tiny: dict[str, Any], values: Any, **train: Any) -> Config:
    keywords = {**tiny, "train": {**tiny["train"], **train}}
    return from_keywords("train", **keywords).model_copy(update={"sweep": values})


def test_a_sweep_goes_on_from_its_address_on_another_machine(
    tiny: dict[str, Any], address: str, in_process: list[Path], tmp_path: Path
) -> None:
    config, paths = swept(tiny, {"adapter.r": [2, 4]}), SweepPaths(tiny["output"])
    comparison, ranked = sweep(config, storage=address)
    assert len(in_process) == 2
    assert not any(folder.is_relative_to(paths.folder) for folder in in_process), "each in a folder of its worker's own"
    assert not any(folder.exists() for folder in in_process)
    assert all(one.trained and one.log.read_text() == "said\n" for one in ranked)
    weights = {one.name: (one.paths.adapter / "adapter_model.safetensors").read_bytes() for one in ranked}
    summary = paths.summary.read_text()
    shutil.rmtree(paths.folder)
    again, found = sweep(config, storage=address)
    assert len(in_process) == 2, "what is complete there is not done again"
    assert paths.summary.read_text() == summary
    assert {one.name: (one.paths.adapter / "adapter_model.safetensors").read_bytes() for one in found} == weights
    assert again.to_dict()["metrics"] == comparison.to_dict()["metrics"]
    store = Storage(address, tmp_path / "elsewhere")
    assert store.pull(store.root / "chosen") == ""
    assert RunPaths(store.root / "chosen").page.is_file(), "the chosen run lies there with its report"
    with pytest.raises(InputError, match=r"another run; what differs: train\.steps"):
        sweep(swept({**tiny, "output": tiny["output"] + "2"}, {"adapter.r": [2, 4]}, steps=5), storage=address)


def test_what_was_made_without_an_address_comes_there_too(
    tiny: dict[str, Any], in_process: list[Path], tmp_path: Path
) -> None:
    config = swept(tiny, {"adapter.r": [2, 4]})
    for one in candidates(config)[:1]:
        tune_stage(one.config, beside_test=True)
    sweep(config, storage=f"file://{tmp_path}/bucket")
    assert len(in_process) == 1
    assert len(list((tmp_path / "bucket" / "candidates").glob("*/adapter/adapter_model.safetensors"))) == 2


def test_what_is_damaged_there_is_made_again(
    tiny: dict[str, Any], in_process: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, paths = swept(tiny, {"adapter.r": [2, 4]}), SweepPaths(tiny["output"])
    _, ranked = sweep(config, storage=f"file://{tmp_path}/bucket")
    shutil.rmtree(paths.folder)
    (weights,) = (tmp_path / "bucket" / "candidates" / ranked[1].name).glob("adapter/adapter_model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    sweep(config, storage=f"file://{tmp_path}/bucket")
    assert len(in_process) == 3
    assert "is not what was brought there. It is made anew." in capsys.readouterr().err
    assert weights.read_bytes() == whole


def test_draws_lie_at_the_address_and_those_of_another_sweep_stay_as_they_are(
    tiny: dict[str, Any], in_process: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    address, paths = f"file://{tmp_path}/bucket", SweepPaths(tiny["output"])
    values = {"trials": 3, "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    sweep(swept(tiny, values), storage=address)
    drawn = paths.trials.read_text()
    assert (tmp_path / "bucket" / "trials.json").read_text() == drawn
    shutil.rmtree(paths.folder)
    sweep(swept(tiny, values), storage=address)
    assert len(in_process) == 3
    assert paths.trials.read_text() == drawn
    other = {**values, "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}
    elsewhere = {**tiny, "output": tiny["output"] + "2"}
    with pytest.raises(InputError, match="is of another sweep"):
        sweep(swept(elsewhere, other), storage=address)
    assert (tmp_path / "bucket" / "trials.json").read_text() == drawn


def test_a_leaderboard_goes_on_from_its_address_on_another_machine(
    tiny: dict[str, Any], in_process: list[Path], tmp_path: Path
) -> None:
    section = LeaderboardSection(methods=["lora", "ia3"], rates=[1.0], finalists=1, tokens=400)
    config = from_keywords("train", **{**tiny, "forgetting": []}).model_copy(update={"leaderboard": section})
    address, paths = f"file://{tmp_path}/bucket", LeaderboardPaths(tiny["output"])
    ranks, summary = rank(config, storage=address)
    ran = len(in_process)
    assert ran == 1 + 2 + 1 + 1
    assert (tmp_path / "bucket" / paths.summary.name).read_text() == paths.summary.read_text()
    shutil.rmtree(paths.folder)
    again, told = rank(config, storage=address)
    assert len(in_process) == ran
    assert again.to_dict() == ranks.to_dict() and told["lengths"] == summary["lengths"]
    shutil.rmtree(paths.folder)
    other = config.model_copy(update={"leaderboard": section.model_copy(update={"tokens": 500})})
    with pytest.raises(InputError, match="holds the leaderboard of another config"):
        rank(other, storage=address)
    assert not paths.folder.exists()


def one_job(tiny: dict[str, Any], address: str, **train: Any) -> tuple[Candidate, Job, Remote]:
    one = candidates(swept(tiny, {"adapter.r": [2]}, **train))[0]
    return one, one.job(ManyPlans(one.config)), Remote.open(address, SweepPaths(tiny["output"]).folder)


def test_a_job_that_fails_leaves_its_words_and_its_checkpoints_there(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"file://{tmp_path}/bucket"
    one, job, between = one_job(tiny, address)

    def work(arguments: Any, log: str, *_: Any, **__: Any) -> int:
        run_in = RunPaths(arguments[arguments.index("--output") + 1])
        (run_in.checkpoints / "step-1").mkdir(parents=True)
        (run_in.checkpoints / "step-1" / "state").write_text("kept")
        Path(log).write_text("why\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "work", work)
    with pytest.raises(KeyboardInterrupt):
        between.command(job)(1, str(tmp_path))
    between.bring(job)
    assert one.log.read_text() == "why\n"
    assert (tmp_path / "bucket" / "candidates" / one.name / "checkpoints" / "step-1" / "state").read_text() == "kept"
    assert not one.paths.checkpoints.exists(), "they lie there for a worker, not for this machine"


def test_an_address_that_answers_no_more_is_said_in_the_log_and_fails_at_the_end(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job, between = one_job(tiny, f"file://{tmp_path}/bucket")
    logs: list[str] = []

    def gone(_: Kept) -> None:
        raise TuneliftError("s3://bucket could not be written to: gone")

    def work(arguments: Any, log: str, *_: Any, meanwhile: Any, **__: Any) -> int:
        monkeypatch.setattr(Kept, "push", gone)
        meanwhile()
        logs.append(Path(log).read_text())
        return 0

    monkeypatch.setattr(jobs, "work", work)
    with pytest.raises(TuneliftError, match="could not be written to: gone"):
        between.command(job)(1, str(tmp_path))
    assert logs == ["storage: s3://bucket could not be written to: gone\n"], "it goes on, as the next try may succeed"


def test_looks_of_a_running_job_are_read_from_the_address(tiny: dict[str, Any], tmp_path: Path) -> None:
    one, job, between = one_job(tiny, f"file://{tmp_path}/bucket")
    store = Storage(between.store.address, tmp_path / "worker")
    run_in = store.root / between.store.inside(one.paths.folder)
    run_in.mkdir(parents=True)
    lines = [
        {"event": "train", "step": 1}, {"event": "validation", "step": 1, "loss": 2.0}, {"event": "train", "step": 2}
    ]  # fmt: skip
    (run_in / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Kept(store, run_in).push()
    assert one.looks == []
    between.look(job)
    assert one.looks == [2.0]


def kill_a_worker(store: Storage, run_of: Path, killed: list[int], over: threading.Event) -> None:
    """Kill the process that works for a run as soon as a checkpoint of it lies at the address."""
    while not over.wait(0.2):
        steps = steps_in(store, run_of)
        for entry in Path("/proc").glob("[0-9]*") if steps else ():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"tune" in words and any(word.endswith(f"/{run_of.name}".encode()) for word in words):
                    killed.append(max(steps))
                    os.kill(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
                    return


WORKER = "import pickle, sys; sys.exit(pickle.loads(bytes.fromhex(sys.argv[1]))(1, sys.argv[2]))"


def test_a_worker_that_is_killed_is_gone_on_for_in_another_folder(
    tiny: dict[str, Any], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray: the second worker finds nothing but the address."""
    train = {"steps": STEPS, "save_every": SAVE_EVERY, "evaluate_every": STEPS}
    one, job, between = one_job(tiny, address, **train)
    words = [sys.executable, "-c", WORKER, pickle.dumps(between.command(job)).hex(), str(tmp_path)]
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    first = subprocess.Popen(words, env={**os.environ, "TMPDIR": str(places[0])})
    try:
        while not (steps := steps_in(between.store, one.paths.folder)):
            assert first.poll() is None, f"it is killed while it trains\n{log_of(between, job)}"
            time.sleep(0.1)
    finally:
        first.kill()
        first.wait()
    assert subprocess.run(words, env={**os.environ, "TMPDIR": str(places[1])}, check=False).returncode == 0
    assert not list(places[1].iterdir())
    between.bring(job)
    assert one.trained, one.log.read_text()
    events = [json.loads(line) for line in one.paths.events.read_text().splitlines()]
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    assert len(resumed) == 1 and resumed[0] >= max(steps)
    assert events[-1]["event"] == "end"
    assert not [name for name in between.store.entries(one.paths.folder) or {} if CHECKPOINT_STEP in name]


def log_of(between: Remote, job: Job) -> str:
    between.store.get(job.log)
    return job.log.read_text() if job.log.exists() else "there is no log"


def steps_in(store: Storage, run_of: Path) -> list[int]:
    """Return the steps of the checkpoints that lie at an address."""
    names = [name for name in store.entries(run_of) or {} if CHECKPOINT_STEP in name]
    return [int(name.split(CHECKPOINT_STEP)[1].split("/")[0]) for name in names]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="parents are looked up in /proc")
def test_a_worker_of_ray_that_is_killed_is_gone_on_for_from_the_address(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker has nothing but the address: each works in a folder of its own."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    with s3_bucket(monkeypatch) as bucket:
        address, root = f"{bucket}/sweep", SweepPaths(tiny["output"]).folder
        train = {"steps": STEPS, "save_every": SAVE_EVERY, "evaluate_every": STEPS}
        found = candidates(swept(tiny, {"adapter.r": [2, 4]}, **train))
        between, plans, codes = Remote.open(address, root), ManyPlans(found[0].config), dict[str, int]()
        killed, over = list[int](), threading.Event()
        given = (Storage(address, root), found[0].paths.folder, killed, over)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            threading.Thread(target=kill_a_worker, args=given, daemon=True).start()
            some = [one.job(plans) for one in found]
            run_jobs(some, "ray", 2, lambda job, code: codes.update({job.name: code}), between=between)
        finally:
            over.set()
            ray.shutdown()
    assert killed, "a worker was killed while it trained"
    assert set(codes.values()) == {0}, found[0].log.read_text()
    assert all(one.trained for one in found)
    events = [json.loads(line) for line in found[0].paths.events.read_text().splitlines()]
    at = next(i for i, event in enumerate(events) if event["event"] == "resumed")
    assert events[at]["step"] >= killed[0]
    assert events[-1]["event"] == "end"
    (in_turn,) = candidates(swept({**tiny, "output": tiny["output"] + "2"}, {"adapter.r": [2]}, **train))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two at once has on two cores
    try:
        tune_stage(in_turn.config, beside_test=True)
    finally:
        torch.set_num_threads(threads)
    assert in_turn.loss == found[0].loss
    both = [(one.paths.adapter / "adapter_model.safetensors").read_bytes() for one in (in_turn, found[0])]
    assert both[0] == both[1]
