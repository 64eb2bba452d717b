"""A file as evalplus 0.3.1 wrote it (three tasks of our own, with two, four and one solutions), and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError

FILE = Path(__file__).parent / "data" / "evalplus_eval_results.json"
PLUS, BASE = "pass@1 (base + extra tests)", "pass@1 (base tests)"


def written(folder: Path, tasks: Any, **more: Any) -> Path:
    path = folder / "samples_eval_results.json"
    path.write_text(json.dumps({"date": "2026-11-28 18:58", "hash": "16", "eval": tasks} | more))
    return path


def solution(base: str | None = "pass", plus: str | None = "pass") -> dict[str, Any]:
    return {"task_id": "T/0", "solution": "def f(): ...", "base_status": base, "plus_status": plus}


def test_a_task_counts_once_whatever_its_number_of_solutions_as_in_evalplus() -> None:
    scores = read_scores(FILE)
    # evalplus printed pass@1 0.917 and 0.667: 1 - C(n - c, 1) / C(n, 1) for each task, then the mean over tasks.
    assert scores.metrics == {PLUS: pytest.approx(2 / 3), BASE: pytest.approx(11 / 12)}
    assert [entry["higher_is_better"] for entry in scores.info["metrics"].values()] == [True, True]
    assert [(row["id"], row["metrics"][PLUS]) for row in scores.rows] == [
        ("HumanEval/0", 0.5),
        ("HumanEval/1", 0.5),
        ("HumanEval/2", 1.0),
    ]
    assert "up to 4 solutions" in scores.info["notes"][1]
    assert compare(FILE, FILE).metrics[PLUS].items == 3


def test_extra_tests_pass_only_with_the_base_tests_and_may_be_absent(tmp_path: Path) -> None:
    tasks = {"T/0": [solution("fail", "pass")], "T/1": [solution("timeout", None)], "T/2": [solution()]}
    assert read_scores(written(tmp_path, tasks)).metrics == {PLUS: pytest.approx(1 / 3), BASE: pytest.approx(1 / 3)}
    only = read_scores(written(tmp_path, {"T/0": [solution("pass", None)], "T/1": [solution(None, None)]}))
    assert only.metrics == {BASE: 0.5}


def test_the_figures_of_newer_files_are_held_against_the_rows(tmp_path: Path) -> None:
    tasks = {"T/0": [solution()], "T/1": [solution("fail", "fail")]}
    said = {"base": {"pass@1": 0.5}, "plus": {"pass@1": 0.25}}
    (note,) = read_scores(written(tmp_path, tasks, pass_at_k=said)).info["notes"][1:]
    assert (
        f"evalplus itself gives 0.25 for {PLUS}; the mean of the 2 items with a score, which is compared, is 0.5"
        in note
    )


def test_other_data_sets_older_files_and_odd_ones_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(FILE.read_text().replace("162a268dda", "000"))
    with pytest.raises(InputError, match="task differs"):
        compare(FILE, other)
    older = {"T/0": {"nfiles": 1, "base": [["pass", [True]]], "plus": [["pass", [True]]]}}
    for tasks, message in (
        (older, r"task T/0: lists of statuses, as evalplus wrote them before 0\.2\.1"),
        ({"T/0": [{"task_id": "T/0", "solution": "", "status": "pass"}]}, 'solution 1: lacks "base_status"'),
        ({"T/0": []}, "task T/0 holds no rows"),
        ({"T/0": [3]}, "task T/0, solution 1: a JSON object is expected"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_scores(written(tmp_path, tasks))
        assert caught.value.fix or "expected" in message
