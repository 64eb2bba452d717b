"""`tunelift runs` lists what is there, and removes run folders only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunelift.cli.runs import command
from tunelift.core.errors import InputError
from tunelift.pipeline.folder import locked


def run_folder(path: Path, **headline: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("model: m\n")
    about = {"format": 1, "status": "complete", "adapter": {"method": "lora"}, "seconds": {"total": 61.2}}
    (path / "manifest.json").write_text(json.dumps(about))
    if headline:
        (path / "comparison.json").write_text(json.dumps({"headline": headline}))
    return path


def listed(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


def test_runs_are_listed_with_verdict_time_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert listed() == "No run folders here.\n"
    run_folder(tmp_path / "runs" / "a", verdict="better", against="tf-idf", metric="accuracy")
    run_folder(tmp_path / "runs" / "sweep" / "chosen")
    broken = run_folder(tmp_path / "runs" / "broken")
    (broken / "manifest.json").write_text("{")
    (tmp_path / "runs" / "no-run").mkdir()
    out = listed()
    assert "better against tf-idf on accuracy" in out
    assert "61 s" in out
    assert "damaged" in out
    assert "3 runs" in out
    found = {Path(run["folder"]).name: run for run in json.loads(listed("--json"))}
    assert set(found) == {"a", "chosen", "broken"}
    assert found["a"]["size_bytes"] > 100
    with pytest.raises(InputError, match="nowhere is no folder"):
        listed("nowhere")


def test_only_run_folders_are_removed(tmp_path: Path) -> None:
    ours, other = run_folder(tmp_path / "ours"), tmp_path / "other"
    other.mkdir()
    for named in ([str(ours), str(other)], []):
        with pytest.raises(InputError, match="Nothing was removed"):
            listed("--remove", *named)
    assert ours.exists()
    listed("--remove", "--yes", str(ours))
    assert not ours.exists()
    assert other.exists()


def test_a_sweep_that_was_killed_before_it_chose_is_removed_whole(tmp_path: Path) -> None:
    run_folder(tmp_path / "many" / "candidates" / "r-2")
    (tmp_path / "many" / "candidates" / "r-2.yaml").write_text("model: m\n")
    listed("--remove", "--yes", str(tmp_path / "many"))
    assert not (tmp_path / "many").exists()


@pytest.mark.parametrize("says", ["sweep.json", "trials.json", "leaderboard.yaml"])
def test_a_whole_sweep_is_removed_unless_something_works_in_it(tmp_path: Path, says: str) -> None:
    whole = tmp_path / "many"
    inner = run_folder(whole / "candidates" / "r-2")
    with pytest.raises(InputError, match="Nothing was removed"):
        listed("--remove", "--yes", str(whole))
    (whole / says).write_text("{}")
    for at_work in (inner, whole):  # a training, and the sweep that begins the next one
        with locked(at_work), pytest.raises(InputError):
            listed("--remove", "--yes", str(whole))
    assert inner.exists()
    listed("--remove", "--yes", str(whole))
    assert not whole.exists()
