"""`tunelift compare` as a gate: exit codes, what is printed where, slices, Markdown, run folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunelift.cli.main import cli

Value = Callable[[int], float]


def write(folder: Path, accuracy: Value, loss: Value, items: int = 200) -> str:
    rows = [
        {
            "id": str(i), "input": f"question {i}", "reference": "ab"[i % 2], "prediction": "a", "source": f"s{i % 2}",
            "metrics": {"accuracy": accuracy(i), "loss": loss(i)},
        }
        for i in range(items)
    ]  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "metrics.json").write_text("{}")
    return str(folder)


@pytest.fixture
def sides(tmp_path: Path) -> list[str]:
    """Tuned is better on accuracy, and worse by 0.1 on loss."""
    return [
        write(tmp_path / "base", lambda i: int(i % 3 == 0), lambda i: 1 + i % 5 / 50),
        write(tmp_path / "tuned", lambda i: int(i % 4 > 0), lambda i: 1.1 + i % 3 / 50),
    ]


def compare(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["compare", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_gate_that_passes(sides: list[str]) -> None:
    shown = compare(*sides, "--require-better", "accuracy").stdout
    assert shown.startswith("The tuned model is better than the base model on accuracy")
    assert shown.splitlines()[-1].startswith("Gate passed: better on accuracy was required; the verdict is better")


def test_a_gate_that_fails_exits_with_3_after_the_result_and_makes_its_metric_the_headline(sides: list[str]) -> None:
    shown = compare(*sides, "--require-better", "loss", code=3).stdout
    assert shown.startswith("The tuned model is worse than the base model on loss")
    assert shown.splitlines()[-1].startswith("Gate failed: better on loss was required; the verdict is worse")


@pytest.mark.parametrize(("margin", "code"), [("0.2", 0), ("0.05", 3)])
def test_no_worse_with_a_margin(sides: list[str], margin: str, code: int) -> None:
    shown = compare(*sides, "--require-no-worse", "loss", "--margin", margin, code=code).stdout
    assert f"Gate {'failed' if code else 'passed'}: no worse on loss was required" in shown


def test_one_of_several_gates_that_fails_is_enough(sides: list[str]) -> None:
    arguments = ["--require-better", "accuracy", "--require-no-worse", "loss", "--margin", "0.05"]
    shown = compare(*sides, *arguments, code=3).stdout
    assert [line[:12] for line in shown.splitlines() if line.startswith("Gate ")] == ["Gate passed:", "Gate failed:"]
    assert "on accuracy" in shown.splitlines()[0]


def test_metric_decides_the_headline_where_it_is_given(sides: list[str]) -> None:
    shown = compare(*sides, "--metric", "accuracy", "--require-better", "loss", code=3).stdout
    assert "on accuracy" in shown.splitlines()[0]


def test_json_stays_json_and_the_reason_goes_to_standard_error(sides: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out" / "comparison.json"
    result = compare(*sides, "--json", "--require-better", "loss", "--output", str(target), code=3)
    assert json.loads(result.stdout)["metrics"]["loss"]["verdict"] == "worse"
    assert json.loads(target.read_text()) == json.loads(result.stdout)
    assert result.stderr.startswith("Gate failed: better on loss was required")


def test_markdown_holds_the_gates_once(sides: list[str]) -> None:
    result = compare(*sides, "--markdown", "--require-better", "loss", code=3)
    assert result.output.count("Gate failed") == 1
    assert result.stdout.startswith("**The tuned model is worse than the base model on loss")
    assert "| accuracy | base | 0.335 |" in result.stdout
    assert "\n- Gate failed: better on loss was required" in result.stdout


def test_usage_errors(sides: list[str]) -> None:
    refused = compare(*sides, "--require-no-worse", "loss", code=2)
    assert "--require-no-worse needs --margin" in refused.stderr
    assert refused.stdout == ""
    assert "exclude each other" in compare(*sides, "--json", "--markdown", code=2).stderr
    assert 'Did you mean "accuracy"' in compare(*sides, "--require-better", "acuracy", code=2).stderr
    several = ["--require-better", "acuracy", "--require-better", "loss"]
    assert 'about "acuracy", which was not compared' in compare(*sides, *several, code=2).stderr


def test_an_adapter_with_no_worse_needs_a_margin_before_it_is_measured() -> None:
    refused = compare("--adapter", "a", "--data", "rows.csv", "--require-no-worse", "loss", code=2)
    assert "--require-no-worse needs --margin" in refused.stderr


def test_slices_of_two_files(sides: list[str]) -> None:
    found = json.loads(compare(*sides, "--slice", "reference", "--slice", "source", "--json").stdout)["slices"]
    assert {column: list(values) for column, values in found.items()} == {
        "reference": ["a", "b"],
        "source": ["s0", "s1"],
    }
    assert found["reference"]["a"]["items"] == 100
    assert 'Did you mean "source"' in compare(*sides, "--slice", "sourc", code=2).stderr


def test_a_run_folder_is_compared_as_a_run(sides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunelift.comparison import compare as compare_sides
    from tunelift.comparison import run_folder

    calls: list[Any] = []

    def compare_run(folder: str, **settings: Any) -> Any:
        calls.append((folder, settings))
        return compare_sides(*sides, **settings)

    monkeypatch.setattr(run_folder, "compare_run", compare_run)
    compare(str(tmp_path), "--require-better", "loss", "--margin", "0.01", code=3)
    assert calls == [(str(tmp_path), {"metric": "loss", "margin": 0.01, "level": 0.95})]
    assert "--slice goes with two sides" in compare(str(tmp_path), "--slice", "reference", code=2).stderr


def test_help_says_what_gates_are_about() -> None:
    shown = " ".join(compare("--help").stdout.split())
    assert "Gates are about the base, not about other baselines" in shown
    assert "in the metric's units (0.01 is one point of accuracy)" in shown
    assert shown.count("--slices") == 1
