"""Sweeps and leaderboards that are killed, at every point there is: the same command ends as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from pretended import losses_of, write_training

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config, LeaderboardSection
from tunelift.run_files.layout import CHECKPOINT_STEP, LeaderboardPaths, RunPaths, SweepPaths
from tunelift.scale import jobs
from tunelift.scale import leaderboard as ranking
from tunelift.scale import sweep as sweeping
from tunelift.scale.candidates import Candidate
from tunelift.scale.spaces import Search

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed")


class Plans:
    """Stands for ManyPlans: nothing is planned of what is pretended."""

    def bytes_of(self, *_: Any, **__: Any) -> None: ...
    def refuse_others(self, *_: Any) -> None: ...


class Points:
    """The points at which a process is killed: every time a file or a folder is brought to the disk, and others."""

    def __init__(self, deadly: int = 0) -> None:
        self.deadly, self.passed = deadly, 0

    def __call__(self, *_: Any) -> None:
        self.passed += 1
        if self.passed == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_at(number: int, do: Callable[[Points], Any]) -> bool:
    """Do it in a process that gets SIGKILL at its so many-th point; return whether there was one."""
    child = os.fork()
    if child == 0:
        try:
            do(Points(number))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Points], None]:
    """Return what lets trainings be pretended from now on, each with points within, and noted in `ended`."""

    def begin(points: Points) -> None:
        def work(arguments: Any, log: str, threads: int, folder: str) -> int:
            config = yaml.safe_load(Path(arguments[1]).read_text())
            paths, losses = RunPaths(config["output"]), losses_of(config)
            points()
            write_training(paths, losses[:2], whole=False)
            points()
            write_training(paths, losses, whole=False)  # its last look is the end, and the end is not written yet
            points()
            with (tmp_path / "ended").open("a") as file:
                file.write(f"{paths.folder}\n")
            write_training(paths, losses, whole=True)
            points()
            return 0

        monkeypatch.setattr(jobs, "work", work)
        monkeypatch.setattr(os, "fsync", points)
        for module in (sweeping, ranking):
            monkeypatch.setattr(module, "plans_of", lambda *_, **__: Plans())
        monkeypatch.setattr(sweeping, "run", lambda config, chosen, anyway: chosen.among)

    return begin


def trained(folder: Path) -> Counter[str]:
    """Return how often each training came to its end."""
    lines = (folder / "ended").read_text().splitlines()
    (folder / "ended").unlink()
    return Counter(lines)


SPACES: dict[str, Any] = {
    "numbers": {"trials": 8, "train.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}},
    "the same twice": {"trials": 9, "train.learning_rate": [1e-4, 1e-3, 1e-2], "adapter.r": {"low": 2, "high": 3}},
}


@pytest.mark.parametrize("spaces", SPACES)
def test_wherever_a_search_is_killed_it_ends_as_if_it_had_not_been(
    tiny: dict[str, Any], pretended: Callable[[Points], None], tmp_path: Path, spaces: str
) -> None:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    config = from_keywords("train", **{**tiny, "train": {"steps": 3}}).model_copy(update={"sweep": SPACES[spaces]})
    paths = SweepPaths(tiny["output"])

    def swept(points: Points) -> Any:
        pretended(points)
        return sweeping.sweep(config)

    def files_of() -> list[str]:
        return [file.read_text() for file in (paths.trials, paths.summary)]

    whole, _ = swept(Points())
    expected, once = files_of(), trained(tmp_path)
    pruned = [one["pruned"] for one in json.loads(expected[0])["trials"]]
    assert any(pruned) and set(once.values()) == {1}
    names = [one["name"] for one in json.loads(expected[0])["trials"]]
    assert (len(set(names)) < len(names)) == (spaces == "the same twice")
    shutil.rmtree(paths.folder)
    for number in count(1):
        killed = killed_at(number, swept)
        again, _ = swept(Points())
        assert files_of() == expected, f"killed at point {number}"
        assert again == whole
        assert trained(tmp_path) == once, f"killed at point {number}"
        shutil.rmtree(paths.folder)
        if not killed:
            break
    assert number > 50


def test_what_optuna_is_told_after_a_kill_is_what_it_was_told_before(
    tiny: dict[str, Any], pretended: Callable[[Points], None]
) -> None:
    """Of a setting that is drawn twice the looks are reported once: the median of later looks would be another."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    config = from_keywords("train", **{**tiny, "train": {"steps": 3}})
    config = config.model_copy(update={"sweep": SPACES["the same twice"]})
    pretended(Points())
    sweeping.sweep(config)

    def search() -> Search:
        return sweeping._search_of(config, SweepPaths(tiny["output"]))

    def told(one: Search) -> list[Any]:
        assert list(one.candidates()) == []
        return [(trial.params, trial.intermediate_values, trial.value, trial.state) for trial in one.study.trials]

    made: list[Search] = []
    with pytest.MonkeyPatch.context() as noted:
        noted.setattr(sweeping, "Search", lambda *given: made.append(Search(*given)) or made[-1])
        shutil.rmtree(tiny["output"])
        sweeping.sweep(config)
    first = [(trial.params, trial.intermediate_values, trial.value, trial.state) for trial in made[-1].study.trials]
    assert told(search()) == first


def test_a_last_look_that_is_done_again_is_no_reason_to_end(tiny: dict[str, Any]) -> None:
    """A training killed after its last look goes on from a checkpoint before it: it is at its end all the same."""
    config = from_keywords("train", **{**tiny, "train": {"steps": 3}})
    one = next(sweeping._made(config, {"train.learning_rate": 1e-3}))
    write_training(one.paths, [3.0, 2.0], whole=False)
    assert one.looks == [3.0]
    with one.paths.events.open("a") as events:
        for event in ({"event": "resumed", "step": 1}, {"event": "train", "step": 2}):
            events.write(json.dumps(event) + "\n")
    assert one.looks == [3.0]
    with one.paths.events.open("a") as events:
        events.write(json.dumps({"event": "train", "step": 3}) + "\n")
    assert one.looks == [3.0, 2.0]


def test_wherever_the_rounds_of_a_leaderboard_are_killed_they_end_as_if_they_had_not_been(
    tiny: dict[str, Any], pretended: Callable[[Points], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    section = LeaderboardSection(methods=["lora", "ia3", "vera"], rates=[0.3, 1.0], finalists=1)
    config = from_keywords("train", **{**tiny, "train": {"steps": 4}}).model_copy(update={"leaderboard": section})
    folder = LeaderboardPaths(tiny["output"]).folder

    class HalvedError(Exception):
        pass

    def finals(config: Config, chosen: Any, *_: Any) -> NoReturn:
        def plain(one: Candidate) -> Any:
            return one.name, dict(one.values), one.loss

        raise HalvedError([(entry.name, plain(made)) for entry, made in chosen.finalists], chosen.told, chosen.tried)

    def ranked(points: Points) -> Any:
        pretended(points)
        monkeypatch.setattr(ranking, "_finals", finals)
        try:
            ranking.rank(config)
        except HalvedError as found:
            return found.args

    whole, once = ranked(Points()), trained(tmp_path)
    assert whole and set(once.values()) == {1}
    shutil.rmtree(folder)
    for number in count(1):
        killed = killed_at(number, ranked)
        assert ranked(Points()) == whole, f"killed at point {number}"
        assert trained(tmp_path) == once, f"killed at point {number}"
        shutil.rmtree(folder)
        if not killed:
            break
    assert number > 30


def real_sweep(config: Path, output: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tunelift", "sweep", str(config), "--output", str(output)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def steps_kept(paths: RunPaths) -> list[str]:
    return [path.name for path in paths.checkpoints.glob(f"{CHECKPOINT_STEP}*")]


def test_a_real_sweep_with_optuna_that_is_killed_chooses_what_it_would_have_chosen(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """The command's process gets SIGKILL while the second of four trains; the process of that training ends by it."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    config = tmp_path / "sweep.yaml"
    train = {"steps": 60, "save_every": 5, "evaluate_every": 20}
    spaces = {"trials": 4, "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    data = {"train": tiny["data"]["train"], "test": tiny["data"]["test"]}
    evaluate = {"baselines": ["majority"], "forgetting": []}
    model = {"name": tiny["model"], "dtype": "float32"}
    config.write_text(
        yaml.safe_dump({"model": model, "data": data, "train": train, "sweep": spaces, "evaluate": evaluate})
    )
    whole, halved = SweepPaths(tmp_path / "whole"), SweepPaths(tmp_path / "halved")
    uninterrupted = real_sweep(config, whole.folder)
    said = uninterrupted.communicate(timeout=900)[0].decode()
    assert uninterrupted.returncode == 0, said
    names = [one["name"] for one in json.loads(whole.trials.read_text())["trials"]]
    killed, second = real_sweep(config, halved.folder), halved.candidate(names[1])
    until = time.monotonic() + 900
    while not steps_kept(second):
        assert killed.poll() is None and time.monotonic() < until, "it is killed while the second trains"
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    first = halved.candidate(names[0]).manifest.stat().st_mtime_ns
    again = real_sweep(config, halved.folder)
    said = again.communicate(timeout=900)[0].decode()
    assert again.returncode == 0, said
    assert halved.trials.read_text() == whole.trials.read_text()
    summaries = [json.loads(paths.summary.read_text()) for paths in (whole, halved)]
    assert summaries[0] == summaries[1]
    assert halved.candidate(names[0]).manifest.stat().st_mtime_ns == first, "what is complete is not done again"
    events = [json.loads(line) for line in second.events.read_text().splitlines()]
    assert [event["event"] for event in events].count("resumed") == 1, "it went on from its checkpoint"
    for name in names:
        both = [paths.candidate(name).made / "adapter_model.safetensors" for paths in (whole, halved)]
        assert both[0].read_bytes() == both[1].read_bytes(), name
