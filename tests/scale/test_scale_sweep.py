"""Several settings: every one trained, one chosen on validation, that one alone measured on the test."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from small_rows import write_rows
from tunelift.comparison.run_folder import compare_run
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import Config
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.folder import locked
from tunelift.pipeline.many_plans import ManyPlans
from tunelift.pipeline.preparing import prepare
from tunelift.pipeline.run import run
from tunelift.run_files.layout import RunPaths, SweepPaths
from tunelift.scale import jobs
from tunelift.scale.candidates import LONGEST, no_longer, short
from tunelift.scale.jobs import Job, run_jobs
from tunelift.scale.sweep import candidates, sweep


def swept(tiny: dict[str, Any], values: Any, **train: Any) -> Config:
    keywords = {**tiny, "train": {**tiny["train"], **train}}
    return from_keywords("train", **keywords).model_copy(update={"sweep": values})


def manifest(paths: RunPaths) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(paths.manifest.read_text())
    return found


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have jobs run in this process, which is quicker; return the names of those that ran."""
    from tunelift.config.load import load_config
    from tunelift.pipeline.stages import tune_stage

    ran: list[str] = []

    def work(arguments: Any, log: str, threads: int, folder: str) -> int:
        config = load_config(arguments[1])
        ran.append(Path(log).stem)
        try:
            tune_stage(config, beside_test="--beside-test" in arguments)
        except InputError as error:
            Path(log).write_text(str(error))
            return error.exit_code
        return 0

    monkeypatch.setattr(jobs, "work", work)
    return ran


def test_one_is_chosen_on_validation_and_it_alone_sees_the_test(tiny: dict[str, Any], in_process: list[str]) -> None:
    config = swept(tiny, {"train.learning_rate": [1e-6, 0.02], "adapter.r": [2, 4]}, seeds=[3, 4])
    comparison, ranked = sweep(config)
    paths = SweepPaths(tiny["output"])
    assert len(in_process) == len(ranked) == 4
    losses = [one.loss for one in ranked]
    assert losses == sorted(losses)
    assert ranked[0].values["train.learning_rate"] == 0.02
    assert json.loads(paths.summary.read_text())["chosen"] == ranked[0].name
    assert all(not one.paths.base.exists() and not one.paths.tuned.exists() for one in ranked)
    chosen = RunPaths(paths.chosen)
    assert manifest(chosen)["chosen_among"]["candidates"] == 4
    assert manifest(chosen)["train"] == manifest(ranked[0].paths)["train"], "it is not trained a second time"
    same = [(folder / "adapter_model.safetensors").read_bytes() for folder in (chosen.adapter, ranked[0].paths.adapter)]
    assert same[0] == same[1]
    assert [one.folder.name for one in chosen.seeds()] == ["4"], "further seeds are those of the chosen setting"
    assert any("chosen among 4" in note for note in comparison.notes)
    assert any("chosen among 4" in note for note in compare_run(paths.chosen).notes)
    assert "chosen among 4" in chosen.page.read_text()

    again, _ = sweep(config)
    assert len(in_process) == 4, "what is complete is not done again"
    assert again.to_dict()["metrics"] == comparison.to_dict()["metrics"]


def test_with_seeds_in_the_sweep_the_mean_chooses_and_the_verdict_is_of_them(
    tiny: dict[str, Any], in_process: list[str]
) -> None:
    config = swept(tiny, {"train.learning_rate": [1e-6, 0.02], "train.seeds": [3, 4]})
    comparison, ranked = sweep(config)
    assert len(in_process) == len(ranked) == 4
    means = [sum(one.loss for one in ranked[at : at + 2]) / 2 for at in (0, 2)]
    assert means == sorted(means)
    assert [one.values["train.seed"] for one in ranked] == [3, 4, 3, 4]
    chosen = RunPaths(SweepPaths(tiny["output"]).chosen)
    assert manifest(chosen)["chosen_among"]["candidates"] == 2, "settings, each with two seeds"
    assert manifest(chosen)["seeds"]["train"] == 3
    assert [one.folder.name for one in chosen.seeds()] == ["4"]
    assert any("chosen among 2" in note for note in comparison.notes)
    with pytest.raises(InputError, match="sweep names"):
        candidates(swept(tiny, {"adapter.r": [2], "train.seeds": [1]}, seeds=[5]))


def test_a_setting_that_fails_is_named_and_left_out(tiny: dict[str, Any], in_process: list[str]) -> None:
    config = swept(tiny, {"adapter.target_modules": [["q_proj"], ["no_such_layer"]]})
    _, ranked = sweep(config)
    assert [one.trained for one in ranked] == [True, False]
    assert "no_such_layer" in ranked[1].log.read_text()
    with pytest.raises(TuneliftError, match="No setting was trained"):
        sweep(swept({**tiny, "output": tiny["output"] + "2"}, {"adapter.target_modules": [["nothing"], ["none"]]}))


def test_trainings_of_another_config_or_of_other_rows_are_not_chosen_among(
    tiny: dict[str, Any], in_process: list[str], tmp_path: Path
) -> None:
    """A sweep that was killed before its verdict, and goes on after an edit: one choice among what is no more alike."""
    values, paths = {"adapter.r": [2, 4]}, SweepPaths(tiny["output"])
    for one in candidates(swept(tiny, values)):
        jobs.work(one.job(ManyPlans(one.config)).arguments, str(one.log), 1, "")
    with pytest.raises(InputError, match=r"another run; what differs: train\.steps"):
        sweep(swept(tiny, values, steps=5))
    write_rows(tmp_path / "train.csv", 60, start=7)
    with pytest.raises(InputError, match=r"another run; what differs: sources.*train\.csv"):
        sweep(swept(tiny, values))
    assert len(in_process) == 2
    assert not paths.chosen.exists()
    assert not paths.summary.exists()


def test_a_sweep_may_measure_by_code_of_the_working_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The command was asked with the config of that folder, and wrote those of its trainings elsewhere itself."""
    (tmp_path / "mine.py").write_text("def shorter(prediction, reference):\n    return float(len(prediction) < 5)\n")
    tiny = tiny | {"evaluate": {"metrics": ["mine.py:shorter"], "max_new_tokens": 4, "forgetting": []}}
    one = candidates(swept(tiny, {"adapter.r": [2, 4]}))[0]
    job = one.job(ManyPlans(one.config))
    assert jobs.work(job.arguments, str(job.log), 1, str(tmp_path)) == 0, job.log.read_text()


def test_rows_that_the_test_holds_are_not_trained_on(
    tiny: dict[str, Any], in_process: list[str], tmp_path: Path
) -> None:
    """As `tunelift run` leaves them out: else the verdict of the chosen would be about rows that it was taught."""
    head, *rows = (tmp_path / "train.csv").read_text().splitlines()
    test = (tmp_path / "test.csv").read_text().splitlines()[1:]
    (tmp_path / "train.csv").write_text("\n".join([head, *test, *rows]) + "\n")
    one = candidates(swept(tiny, {"adapter.r": [2, 4]}))[0]
    assert jobs.work(one.job(ManyPlans(one.config)).arguments, str(one.log), 1, "") == 0
    left = prepare(one.config).splits
    data = manifest(one.paths)["data"]
    assert data["rendering"]["rows"] == len(left.train) <= len(rows)
    assert len(left.leaks) >= len(test) - 2


def test_what_was_removed_by_hand_is_trained_again(tiny: dict[str, Any], in_process: list[str]) -> None:
    config, paths = swept(tiny, {"adapter.r": [2, 4]}), SweepPaths(tiny["output"])
    sweep(config)
    shutil.rmtree(paths.chosen)
    shutil.rmtree(paths.candidate("r-2").made)
    shutil.rmtree(paths.candidate("r-4").folder)
    sweep(config)
    assert in_process == ["r-2", "r-4"] * 2


@pytest.mark.parametrize("train", [None, {}, {"best_loss": None}, {"best_loss": "low"}])
def test_a_training_that_says_no_loss_is_not_chosen(tiny: dict[str, Any], train: Any) -> None:
    one = candidates(swept(tiny, {"adapter.r": [2, 4]}))[0]
    one.paths.adapter.mkdir(parents=True)
    one.paths.manifest.write_text(json.dumps({"format": 1, "status": "complete", "train": train}))
    if train and train["best_loss"] == "low":
        with pytest.raises(InputError, match="best_loss is no number"):
            _ = one.loss
    else:
        assert one.loss == float("inf")


def test_a_folder_has_one_sweep_at_a_time_and_nothing_else(tiny: dict[str, Any]) -> None:
    config, folder = swept(tiny, {"adapter.r": [2, 4]}), Path(tiny["output"])
    with locked(folder), pytest.raises(InputError, match="still at work"):
        sweep(config)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"no sweep of ours: notes\.txt"):
        sweep(config)


def test_names_of_long_or_odd_values_stay_apart_and_fit_on_a_disk(tiny: dict[str, Any]) -> None:
    long = [f"layers.{number}.self_attn.q_proj" for number in range(9)]
    found = candidates(swept(tiny, {"adapter.target_modules": [[*long, "v"], [*long, "w"], "/..", "x", "x.yaml"]}))
    assert len({one.name for one in found}) == 5
    values = {f"train.{key}": ["x" * 60] for key in ("optimizer", "schedule")}
    values |= {f"adapter.key{number}": ["\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 60] for number in range(6)}
    whole = ",".join(f"{key.rpartition('.')[2]}-{short(one[0])}" for key, one in values.items())
    name = no_longer(whole, LONGEST)
    assert len(name.encode()) <= LONGEST < len(whole.encode())
    assert name != no_longer(whole + "2", LONGEST)
    for one in found:
        assert one.paths.folder.parent == one.asked.parent == one.log.parent
        assert not {path.folder.name for path in (other.paths for other in found)} & {one.asked.name, one.log.name}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "nothing to choose among"),
        ({"data.seed": [1]}, "data.seed cannot be varied"),
        ({"train.seed": [1, 2]}, "a seed chosen on validation is luck"),
        ({"train.learning_rat": [1]}, 'Did you mean "learning_rate"'),
        ({"train.learning_rate": 1e-3}, "needs a list of values"),
        ({"train.learning_rate": []}, "needs a list of values"),
        ({"train.learning_rate": [-1]}, "a number above 0"),
        ({"adapter.r": [4, 4]}, "a combination twice"),
        ({"train.seeds": [1, 2]}, "a seed is no choice"),
        ({"train.seeds": [1, 1], "adapter.r": [4]}, "different whole numbers"),
        ({"adapter.method": ["lora", "loar"]}, 'no PEFT method "loar"'),
        ({"adapter.method": ["lora", "ia3"], "adapter.r": [4]}, "IA3Config has no such key"),
        ({"adapter.r": list(range(1, 202))}, "201 combinations; at most 200"),
    ],
)
def test_what_cannot_be_swept_is_said_before(tiny: dict[str, Any], values: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        candidates(swept(tiny, values))
    assert not Path(tiny["output"]).exists()


def test_other_commands_refuse_values_to_choose_among(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Use tunelift sweep"):
        run(swept(tiny, {"adapter.r": [2]}))


def test_a_methods_own_learning_rate_stays(tiny: dict[str, Any]) -> None:
    del tiny["train"]["learning_rate"]
    found = candidates(swept(tiny, {"adapter.method": ["lora", "ia3"]}))
    assert all("learning_rate" not in one.config.train.model_fields_set for one in found)
    assert [one.name for one in found] == ["method-lora", "method-ia3"]


def test_jobs_are_processes_with_their_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/sh")  # `sh -m ...` fails at once, and says so in the log
    codes: dict[str, int] = {}
    some = [Job(name, ["--version"], tmp_path / "logs" / f"{name}.log") for name in "abc"]
    run_jobs(some, "local", 2, lambda job, code: codes.update({job.name: code}))
    assert set(codes) == {"a", "b", "c"}
    assert all(codes.values())
    assert all(job.log.read_text() for job in some)


def test_what_runs_is_told_to_end_where_the_whole_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow").write_text("#!/bin/sh\nif [ $4 = quick ]; then exit 0; fi\nexec sleep 60\n")
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "slow"))

    def interrupted(job: Job, code: int) -> None:
        raise KeyboardInterrupt

    some = [Job(name, [name, name], tmp_path / f"{name}.log") for name in ("quick", "slow")]
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(some, "local", 2, interrupted)
    assert time.monotonic() - began < 30
    assert not jobs._running


def test_ray_runs_them_too(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    codes: dict[str, int] = {}
    some = [Job(name, [argument], tmp_path / f"{name}.log") for name, argument in (("a", "--version"), ("b", "--no"))]
    run_jobs(some, "ray", 2, lambda job, code: codes.update({job.name: code}))
    assert codes == {"a": 0, "b": 2}
    assert "tunelift" in (tmp_path / "a.log").read_text()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'tunelift\[ray\]'"):
        run_jobs([Job("a", ["--version"], tmp_path / "a.log")], "ray", 1, lambda job, code: None)
