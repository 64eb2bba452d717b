"""Settings drawn by Optuna: every choice on validation, ended early by looks, gone on with after a kill."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretended import LOOKS, losses_of, write_training

from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config
from tunelift.core.errors import InputError
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.run_files.layout import RunPaths, SweepPaths
from tunelift.scale import jobs
from tunelift.scale import sweep as sweeping
from tunelift.scale.candidates import Candidate
from tunelift.scale.spaces import Search, corners
from tunelift.scale.sweep import candidates, sweep

RATES = {"low": 1e-5, "high": 1e-1, "log": True}


def swept(tiny: dict[str, Any], values: Any, **train: Any) -> Config:
    keywords = {**tiny, "train": {"steps": 3, **train}}
    return from_keywords("train", **keywords).model_copy(update={"sweep": values})


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let trainings be pretended, and the chosen not be run; return the names of those that ran."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    ran: list[str] = []

    def work(arguments: Any, log: str, threads: int, folder: str) -> int:
        config = yaml.safe_load(Path(arguments[1]).read_text())
        ran.append(Path(log).stem)
        write_training(RunPaths(config["output"]), losses_of(config), whole=True)
        return 0

    monkeypatch.setattr(jobs, "work", work)
    monkeypatch.setattr(sweeping, "run", lambda config, chosen, anyway: chosen)
    monkeypatch.setattr(ManyPlans, "refuse_others", lambda *_: None)  # no config lies in what is pretended
    return ran


def test_settings_are_drawn_and_one_is_chosen_on_validation(tiny: dict[str, Any], pretended: list[str]) -> None:
    values = {"trials": 16, "train.learning_rate": RATES, "adapter.r": {"low": 2, "high": 8, "step": 2}}
    chosen, ranked = sweep(swept(tiny, {**values, "adapter.target_modules": [["q_proj"], ["q_proj", "v_proj"]]}))
    assert len(set(pretended)) == len(pretended) == len(ranked)
    assert chosen.among["candidates"] == len(ranked) <= 16
    assert chosen.among["values"] == ranked[0].values
    assert abs(math.log10(ranked[0].values["train.learning_rate"]) + 3) < 1
    assert {one.values["adapter.r"] for one in ranked} <= {2, 4, 6, 8}
    assert all(isinstance(one.values["adapter.target_modules"], list) for one in ranked)
    early = [one for one in ranked if one.pruned]
    assert early and all(math.isinf(one.loss) for one in early)
    assert all(one.pruned < LOOKS for one in early), "the last look is the end, at which there is nothing to spare"
    told = json.loads(SweepPaths(tiny["output"]).summary.read_text())["candidates"]
    assert [one.get("ended_after_look") for one in told] == [one.pruned for one in ranked]


def test_a_search_that_was_killed_draws_what_it_would_have_drawn(
    tiny: dict[str, Any], pretended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"trials": 14, "train.learning_rate": RATES}
    _, whole = sweep(swept({**tiny, "output": tiny["output"] + "-whole"}, values))
    pretended.clear()
    work = jobs.work

    def killed(*arguments: Any) -> int:
        if len(pretended) in (3, 12):
            pretended.append("killed")
            raise KeyboardInterrupt
        return work(*arguments)

    monkeypatch.setattr(jobs, "work", killed)
    config = swept(tiny, values)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sweep(config)
    _, ranked = sweep(config)
    assert [(one.name, one.pruned, one.loss) for one in ranked] == [(o.name, o.pruned, o.loss) for o in whole]
    ran = [name for name in pretended if name != "killed"]
    assert len(ran) == len(set(ran)) == 14, "what is complete is not done again"
    pretended.clear()
    sweep(swept(tiny, {**values, "trials": 16}))
    assert len(pretended) == 2, "more settings can be drawn later"
    with pytest.raises(InputError, match="is of another sweep"):
        sweep(swept(tiny, {**values, "train.learning_rate": {**RATES, "high": 1.0}}))
    file = SweepPaths(tiny["output"]).trials
    whole = json.loads(file.read_text())
    for damaged in ({"spaces": whole["spaces"]}, {**whole, "trials": [{"params": {}}]}, {**whole, "trials": "none"}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="is not what tunelift writes there"):
            sweep(swept(tiny, values))
    file.write_text(json.dumps(whole))
    write_training(RunPaths(SweepPaths(tiny["output"]).chosen), [1.0], whole=True)
    assert sweep(swept(tiny, {**values, "trials": 16}))
    with pytest.raises(InputError, match="has a verdict already, of the best among 16"):
        sweep(swept(tiny, {**values, "trials": 20}))


def searched(tiny: dict[str, Any], make: Callable[[Any], Candidate], **settings: Any) -> Search:
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    return Search({"trials": 8, "train.learning_rate": RATES, **settings}, 0, Path(tiny["output"]) / "t.json", make)


def test_a_training_behind_the_median_is_ended_while_it_runs(tiny: dict[str, Any]) -> None:
    config = swept(tiny, {})
    search = searched(tiny, lambda values: next(sweeping._made(config, values)))
    drawn = search.candidates()
    for one in (next(drawn) for _ in range(5)):
        write_training(one.paths, [3.0, 2.0, 1.0], whole=True)
        assert not search.ended(one)
    bad = next(drawn)
    write_training(bad.paths, [2.9], whole=False)
    assert not search.to_end(bad), "a look after which it did not go on may be its last"
    write_training(bad.paths, [2.9, 2.5, 2.4], whole=False)
    assert search.to_end(bad)
    assert search.ended(bad)
    assert [one.pruned for one in search.drawn] == [None] * 5 + [2]
    again = searched(tiny, lambda values: next(sweeping._made(config, values)))
    assert next(again.candidates()).name not in {one.name for one in search.drawn}


def test_what_is_drawn_twice_is_trained_once(tiny: dict[str, Any]) -> None:
    config, search = swept(tiny, {}), None
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    spaces = {"trials": 9, "adapter.r": {"low": 2, "high": 4}}
    search = Search(spaces, 0, Path(tiny["output"]) / "t.json", lambda values: next(sweeping._made(config, values)))
    for one in search.candidates():
        write_training(one.paths, [3.0, 2.0], whole=True)
        search.ended(one)
    assert len(search.trials) == 9
    assert {one.name for one in search.drawn} == {"r-2", "r-3", "r-4"}
    assert len(search.drawn) == 3


def test_a_pruned_process_is_told_to_end(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its looks: the process itself pretends to train for ever."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    program = Path(tiny["output"]).parent / "slow"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(jobs, "LOOK", 0.1)
    monkeypatch.setattr(sweeping, "run", lambda config, chosen, anyway: chosen)
    work, count, codes = jobs.work, 0, list[int]()

    def some_end(arguments: Any, log: str, threads: int, folder: str) -> int:
        nonlocal count
        count += 1
        paths = RunPaths(yaml.safe_load(Path(arguments[1]).read_text())["output"])
        write_training(paths, [1.0, 1.0, 1.0] if count < 6 else [9.0, 8.0], whole=count < 6)
        codes.append(0 if count < 6 else work(arguments, log, threads, folder))
        return codes[-1]

    monkeypatch.setattr(jobs, "work", some_end)
    _, ranked = sweep(swept(tiny, {"trials": 6, "train.learning_rate": RATES}))
    assert [one.pruned for one in ranked] == [None] * 5 + [1]
    assert codes == [0] * 5 + [-signal.SIGTERM]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.learning_rate": RATES}, "does not say how many settings are drawn"),
        ({"trials": 1, "train.learning_rate": RATES}, "a whole number from 2 to 200"),
        ({"trials": 201, "train.learning_rate": RATES}, "a whole number from 2 to 200"),
        ({"trials": 5, "train.learning_rate": {"low": 1e-3}}, "a range needs numbers"),
        ({"trials": 5, "train.learning_rate": {"low": 1e-3, "high": "x"}}, "a range needs numbers"),
        ({"trials": 5, "train.learning_rate": {"low": 1e-3, "high": 1e-4}}, "low must be less than high"),
        ({"trials": 5, "train.learning_rate": {"low": 0, "high": 1, "log": True}}, "log needs a low above 0"),
        ({"trials": 5, "train.learning_rate": {**RATES, "q": 1}}, "a range has low, high, log, step, not q"),
        ({"trials": 5, "train.learning_rate": {"low": -1, "high": 1}}, "a number above 0"),
        ({"trials": 5, "data.seed": {"low": 1, "high": 2}}, "data.seed cannot be varied"),
        ({"trials": 5, "train.seed": {"low": 1, "high": 2}}, "a seed chosen on validation is luck"),
        ({"trials": 5, "adapter.r": [4], "train.seeds": [1, 2]}, "Name them in train.seeds"),
        ({"trials": 5, "adapter.method": ["lora", "ia3"], "adapter.r": {"low": 2, "high": 4}}, "has no such key"),
        ({"trials": 5}, "nothing to choose among"),
    ],
)
def test_what_cannot_be_drawn_is_said_before(tiny: dict[str, Any], values: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        candidates(swept(tiny, values))
    assert not Path(tiny["output"]).exists()


def test_ranges_are_checked_at_both_ends() -> None:
    found = list(corners({"trials": 3, "a": [1, 2], "b": {"low": 5, "high": 7}}))
    assert found == [{"a": 1, "b": 5}, {"a": 1, "b": 7}, {"a": 2, "b": 5}, {"a": 2, "b": 7}]


def test_without_optuna_it_says_what_to_install(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(sweeping, "plans_of", lambda *_, **__: pytest.fail("it is said before anything is planned"))
    with pytest.raises(InputError, match=r"pip install 'tunelift\[optuna\]'"):
        sweep(swept(tiny, {"trials": 3, "train.learning_rate": RATES}))
    assert not Path(tiny["output"]).exists()
