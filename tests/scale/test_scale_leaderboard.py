"""A leaderboard of a config: chosen on validation, ranked once on the test, gone on with after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from small_rows import write_rows
from tunelift.cli.main import cli
from tunelift.config.keywords import from_keywords
from tunelift.config.load import load_config
from tunelift.config.schema import Config, LeaderboardSection
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.folder import locked
from tunelift.pipeline.run import run
from tunelift.pipeline.stages import tune_stage
from tunelift.pipeline.tuning import Chosen
from tunelift.run_files.layout import LeaderboardPaths
from tunelift.scale import jobs
from tunelift.scale import leaderboard as ranking
from tunelift.scale.halving import rounds
from tunelift.scale.leaderboard import entries, rank
from tunelift.wording.leaderboard_text import further

METHODS: list[Any] = ["lora", "ia3", "vera", {"name": "big", "adapter.method": "lora", "adapter.r": 16}]


def board(tiny: dict[str, Any], methods: list[Any] = METHODS, **settings: Any) -> Config:
    keywords = {**tiny, "train": {"steps": 4, **settings.pop("train", {})}, "forgetting": []}
    section = LeaderboardSection(methods=methods, **{"rates": [1.0, 3.0], "finalists": 2, **settings})
    return from_keywords("train", **keywords).model_copy(update={"leaderboard": section})


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have jobs run in this process, which is quicker; return the folders and names of those that ran."""
    ran: list[str] = []

    def work(arguments: Any, log: str, threads: int, folder: str) -> int:
        config = load_config(arguments[1])
        ran.append(f"{Path(log).parent.name}/{Path(log).stem}")
        try:
            if arguments[0] == "tune":
                tune_stage(config, beside_test="--beside-test" in arguments)
            else:
                run(config, chosen=Chosen.read(Path(arguments[3])))
        except InputError as error:
            Path(log).write_text(str(error))
            return error.exit_code
        return 0

    monkeypatch.setattr(jobs, "work", work)
    return ran


@pytest.mark.parametrize("name", ["..", "", "/", {"name": ".", "adapter.r": 2}])
def test_an_entry_has_a_name_that_can_be_a_folders(tiny: dict[str, Any], name: Any) -> None:
    entry = name if isinstance(name, dict) else {"name": name, "adapter.r": 4}
    with pytest.raises(InputError, match="needs a name, with a letter"):
        entries(board(tiny, ["lora", entry]))


def test_a_folder_has_one_leaderboard_at_a_time(tiny: dict[str, Any]) -> None:
    with locked(Path(tiny["output"])), pytest.raises(InputError, match="still at work"):
        rank(board(tiny))
    assert not LeaderboardPaths(tiny["output"]).config.exists()


def test_trainings_of_other_rows_are_not_ranked_with_those_of_these(
    tiny: dict[str, Any], in_process: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = board(tiny)
    monkeypatch.setattr(ranking, "_finals", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        rank(config)
    write_rows(tmp_path / "train.csv", 60, start=7)
    with pytest.raises(InputError, match=r"another run; what differs: sources.*train\.csv"):
        rank(config)


def test_methods_are_chosen_on_validation_and_the_finalists_alone_see_the_test(
    tiny: dict[str, Any], in_process: list[str]
) -> None:
    config = board(tiny, train={"seeds": [3, 4]})
    ranks, summary = rank(config)
    paths = LeaderboardPaths(tiny["output"])
    first = [name for name in in_process if name.startswith("round-0/")]
    assert len(first) == 8
    assert len([name for name in in_process if name.startswith("round-1/")]) == 2
    finals = [name for name in in_process if name.startswith("finalists/")]
    assert len(finals) == len(ranks.candidates) == 2
    steps = {
        round_["round"]: {one["values"]["train.steps"] for one in round_["candidates"]} for round_ in summary["rounds"]
    }
    assert steps == {0: {2}, 1: {4}}
    losses = {one["name"]: one["validation_loss"] for one in summary["rounds"][0]["candidates"]}
    by_method = {}
    for name, loss in losses.items():
        by_method.setdefault(name.rpartition("-x")[0], []).append(loss)
    best = sorted(by_method, key=lambda name: min(by_method[name]))[:2]
    assert {one.name for one in ranks.candidates} == set(best)
    for name in best:
        run_of = paths.run("finalists", name)
        manifest = files.read_manifest(run_of.manifest)
        assert manifest["chosen_among"]["candidates"] == summary["tried"] == 10
        assert "chosen among 10" in run_of.page.read_text()
        assert manifest["stages"]["base"]["from"], "the base is measured once"
        assert [one.folder.name for one in run_of.seeds()] == ["4"]
        made = paths.run("round-1", name)
        assert (run_of.adapter / "adapter_model.safetensors").read_bytes() == (
            made.adapter / "adapter_model.safetensors"
        ).read_bytes(), "the last round's training is the finalist's"
    assert not list(paths.folder.glob("round-*/*/tuned"))
    assert summary["recipes"]["seeds"] == 2
    assert set(summary["front"]) <= set(best)
    assert paths.figure.read_text().count("<svg") == 1
    assert all(name in paths.markdown.read_text() for name in best)
    assert "As recipes, over 2 seeds" in "\n".join(further(summary))
    told = json.loads(paths.summary.read_text())
    assert told["costs"][best[0]]["size_bytes"] > 0

    in_process.clear()
    again, _ = rank(config)
    assert in_process == [], "what is complete is not done again"
    assert again.to_dict()["candidates"] == ranks.to_dict()["candidates"]


def test_a_leaderboard_that_was_killed_goes_on_with_what_is_missing(
    tiny: dict[str, Any], in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, config = jobs.work, board(tiny, METHODS[:3], finalists=1)

    def killed(arguments: Any, log: str, threads: int, folder: str) -> int:
        if len(in_process) == 7:
            raise KeyboardInterrupt
        return work(arguments, log, threads, folder)

    monkeypatch.setattr(jobs, "work", killed)
    with pytest.raises(KeyboardInterrupt):
        rank(config)
    before = list(in_process)
    assert len(before) == 7
    monkeypatch.setattr(jobs, "work", work)
    ranks, summary = rank(config)
    assert len(set(in_process)) == len(in_process), "nothing was done twice"
    assert summary["tried"] == 6 + 2 + 1
    assert len(ranks.candidates) == 1
    with pytest.raises(InputError, match="another config"):
        rank(board(tiny, METHODS[:2], finalists=1))


def test_a_budget_in_tokens_or_seconds_is_measured_once(tiny: dict[str, Any], in_process: list[str]) -> None:
    _, summary = rank(board(tiny, METHODS[:2], finalists=2, rates=[1.0], tokens=600))
    assert [name for name in in_process if name.startswith("pilot")] == ["pilot/lora"]
    paths = LeaderboardPaths(tiny["output"])
    rendering = files.read_manifest(paths.run("pilot", "lora").manifest)["data"]["rendering"]
    kept = rendering["rows"] - rendering["dropped"]
    assert summary["lengths"] == {
        name: {"steps": max(1, round(600 / (rendering["tokens"] / kept * 8)))} for name in ("lora", "ia3")
    }
    in_process.clear()
    _, by_time = rank(board({**tiny, "output": tiny["output"] + "2"}, METHODS[:2], rates=[1.0], seconds=0.2))
    assert {name for name in in_process if name.startswith("pilot")} == {"pilot/lora", "pilot/ia3"}
    assert all(length["steps"] >= 1 for length in by_time["lengths"].values())


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        (["lora"], {}, "two entries or more"),
        (["lora", "loar"], {}, 'no PEFT method "loar"'),
        (["lora", {"name": "x", "adapter.q": 3}], {}, "has no such key"),
        (["lora", {"name": "x", "data.seed": 3}], {}, "cannot be varied"),
        (["lora", {"adapter.r": 3}], {}, "needs a name"),
        (["lora", {"name": "x"}], {}, "neither a method's name"),
        (["lora", "lora"], {}, "twice: lora"),
        (["lora", "ia3"], {"tokens": 5, "seconds": 5}, "exclude each other"),
        (["lora", "ia3"], {"rates": [1, 1]}, "different numbers"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    tiny: dict[str, Any], methods: list[Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        rank(board(tiny, methods, **settings))
    assert not Path(tiny["output"]).exists()


def test_where_nothing_can_be_trained_it_is_said(tiny: dict[str, Any], in_process: list[str]) -> None:
    bad = [{"name": name, "adapter.target_modules": ["no_such"], "adapter.r": r} for name, r in (("a", 1), ("b", 2))]
    with pytest.raises(TuneliftError, match="No entry was trained"):
        rank(board(tiny, bad))


def test_other_commands_refuse_methods_to_rank(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Use tunelift leaderboard"):
        run(board(tiny))


def test_the_rounds_halve_down_to_the_finalists() -> None:
    assert [(one.entries, one.share) for one in rounds(12, 3)] == [(12, 0.25), (6, 0.5), (3, 1.0)]
    assert [(one.entries, one.share) for one in rounds(5, 2)] == [(5, 0.25), (3, 0.5), (2, 1.0)]
    assert [(one.entries, one.share) for one in rounds(2, 3)] == [(2, 1.0)]
    assert [(one.entries, one.share) for one in rounds(40, 3)] == [
        (40, 1 / 16),
        (20, 0.125),
        (10, 0.25),
        (5, 0.5),
        (3, 1),
    ]


def test_every_entry_keeps_its_methods_own_learning_rate(tiny: dict[str, Any]) -> None:
    tiny = {**tiny, "train": {"steps": 2}}
    found = entries(board(tiny))
    assert all("learning_rate" not in one.config.train.model_fields_set for one in found)


def test_the_command_takes_a_config_and_nothing_of_files(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: gpt2\ndata: rows.csv\nleaderboard: {methods: [lora, loraa]}\n")
    result = CliRunner().invoke(cli, ["leaderboard", str(tmp_path / "c.yaml")])
    assert result.exit_code == 2
    assert 'no PEFT method "loraa". Did you mean "lora"?' in result.output
    result = CliRunner().invoke(cli, ["leaderboard", str(tmp_path / "c.yaml"), "--metric", "loss"])
    assert "goes with files" in result.output
    result = CliRunner().invoke(cli, ["leaderboard", "a", "b", "--at-once", "2"])
    assert "goes with a config" in result.output
