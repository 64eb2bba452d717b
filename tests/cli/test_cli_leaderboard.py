"""`tunelift leaderboard`: files, folders, run folders, their names, and what it costs to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunelift.cli.main import cli


def write(folder: Path, right: int, items: int = 100) -> Path:
    rows = [
        {"id": str(i), "input": f"q{i}", "reference": "a", "prediction": "b"}
        | {"metrics": {"accuracy": int(i < right), "other": i % 3}}
        for i in range(items)
    ]
    folder.mkdir(parents=True)
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Three run folders over one base."""
    for name, right in (("small", 45), ("large", 90), ("large-again", 91)):
        write(tmp_path / name / "base", 40)
        write(tmp_path / name / "tuned", right)
    return [str(tmp_path / name) for name in ("small", "large", "large-again")]


def leaderboard(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["leaderboard", *arguments])
    assert result.exit_code == code, result.output
    return result


def names(*arguments: str) -> list[str]:
    return [one["name"] for one in json.loads(leaderboard(*arguments, "--json").stdout)["candidates"]]


def test_run_folders_are_ranked_against_the_base_of_the_first(runs: list[str]) -> None:
    shown = leaderboard(*runs).stdout
    assert shown.startswith("large-again, large are tied for first place on accuracy (100 items)")
    table = [line.split() for line in shown.splitlines() if line.startswith(("tied", "3rd", "-"))]
    assert [row[:3] for row in table[:2]] == [["tied", "1st", "large-again"], ["tied", "1st", "large"]]
    assert table[2][:3] == ["3rd", "small", "0.450"]
    assert table[3] == ["-", "base", "0.400"]


def test_a_base_and_tuned_sides_of_any_kind(runs: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "elsewhere", 70) / "scores.jsonl"
    base = str(Path(runs[0], "base"))
    assert names(base, runs[0], str(Path(runs[1], "tuned")), str(file)) == ["large", "elsewhere", "small"]
    named = file.with_name("mine.jsonl")
    file.rename(named)
    assert names(base, runs[0], str(named)) == ["mine", "small"]


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path: Path) -> None:
    base = write(tmp_path / "base", 40)
    one, other = write(tmp_path / "one" / "r8" / "tuned", 60), write(tmp_path / "other" / "r8" / "tuned", 90)
    assert names(str(base), str(one), str(other)) == ["other/r8", "one/r8"]
    repeated = leaderboard(str(base), str(one), str(one.parent), code=2)
    assert "Each model can be ranked once" in repeated.stderr


def test_metric_and_level(runs: list[str]) -> None:
    shown = json.loads(
        leaderboard(*runs, "--metric", "other", "--higher-better", "other", "--level", "0.9", "--json").stdout
    )
    assert (shown["metric"], shown["level"]) == ("other", 0.9)
    assert {one["rank"] for one in shown["candidates"]} == {1}
    assert '--lower-better "other"' in leaderboard(*runs, "--metric", "other", code=2).stderr
    assert 'no metric "othr"' in leaderboard(*runs, "--metric", "othr", code=2).stderr


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_are_a_usage_error(runs: list[str], count: int) -> None:
    assert "at least two run folders" in leaderboard(*runs[:count], code=2).stderr
    two = [str(Path(runs[0], "base")), runs[1]][: count + 1]
    assert "at least two tuned models" in leaderboard(*two, code=2).stderr


def test_other_items_name_the_model(runs: list[str], tmp_path: Path) -> None:
    short = write(tmp_path / "short", 20, items=90)
    assert "short: 10 of the 100 items in base are not in short" in leaderboard(*runs, str(short), code=2).stderr


def test_it_imports_neither_torch_nor_pydantic(runs: list[str]) -> None:
    code = (
        "import sys\nfrom tunelift.cli.main import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*{'torch', 'transformers', 'pydantic', 'scipy.stats'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "leaderboard", *runs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
