"""A run as deepeval 4.3.1 wrote it (two metrics of our own on five cases, one of which fails), and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError

FILE = Path(__file__).parent / "data" / "deepeval_test_run.json"


def metric(score: float | None, success: bool, threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"name": "Toxicity", "threshold": threshold, "success": success, "score": score} | more


def written(folder: Path, cases: list[dict[str, Any]], name: str = "run.json", **more: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps({"testCases": cases, "conversationalTestCases": []} | more))
    return path


def case(name: str, *metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "input": f"asked {name}", "actualOutput": "said", "metricsData": list(metrics)} | more


def test_means_are_deepeval_s_and_a_case_whose_metrics_failed_is_unscored() -> None:
    scores = read_scores(FILE)
    said = {entry["metric"]: mean(entry["scores"]) for entry in json.loads(FILE.read_text())["metricsScores"]}
    assert scores.metrics == {name: pytest.approx(value) for name, value in said.items()}
    assert scores.info["metrics"]["Length"] == {"value": pytest.approx(0.25), "higher_is_better": True, "items": 4}
    assert [row["id"] for row in scores.rows] == ["test_case_0", "test_case_1", "n3", "n4", "test_case_4"]
    assert scores.rows[0] | {"metrics": {}} == {
        "id": "test_case_0",
        "input": "q1",
        "reference": "e",
        "prediction": "a",
        "metrics": {},
    }
    assert scores.rows[4]["unscored"] == "Length: ValueError: x; Other: ValueError: x"
    assert scores.info["notes"] == []
    assert compare(FILE, FILE).metrics["Length"].items == 4


def test_the_wrapped_run_is_read_alike(tmp_path: Path) -> None:
    wrapped = tmp_path / ".latest_test_run.json"
    wrapped.write_text(json.dumps({"testRunData": json.loads(FILE.read_text())}))
    assert read_scores(wrapped).rows == read_scores(FILE).rows


def test_the_direction_is_read_off_the_side_of_the_threshold_that_succeeds(tmp_path: Path) -> None:
    """Toxicity is better lower up to deepeval 4.1.8 and better higher in 4.3.1, and no file says its version."""
    lower = written(tmp_path, [case("a", metric(0.1, True)), case("b", metric(0.9, False))], "lower.json")
    higher = written(tmp_path, [case("a", metric(0.9, True)), case("b", metric(0.5, True))], "higher.json")
    assert read_scores(lower).info["metrics"]["Toxicity"]["higher_is_better"] is False
    assert read_scores(higher).info["metrics"]["Toxicity"]["higher_is_better"] is True
    with pytest.raises(InputError, match="disagree on whether a higher Toxicity is better"):
        compare(lower, higher)
    for unclear in (
        [metric(0.5, True)],
        [metric(0.9, True), metric(0.9, False)],
        [metric(0.9, True) | {"threshold": None}],
        [metric(0.9, True) | {"success": None}],
    ):
        cases = [case(str(number), one) for number, one in enumerate(unclear)]
        metrics = read_scores(written(tmp_path, cases)).info["metrics"]
        assert list(metrics) == ["Toxicity of unknown direction"], "the name alone would say lower"
        assert metrics["Toxicity of unknown direction"]["higher_is_better"] is None


def test_conversations_repeats_and_names_that_begin_anew(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi", "order": 0}, {"role": "assistant", "content": "hello", "order": 1}]
    told = {"name": "c", "turns": turns, "expectedOutcome": "greeted", "metricsData": [metric(1, True)]}
    (row,) = read_scores(written(tmp_path, [], conversationalTestCases=[told])).rows
    assert (row["input"], row["reference"], row["prediction"]) == ("hi", "greeted", "hello")
    scenario = told | {"scenario": "A guest arrives."}
    (row,) = read_scores(written(tmp_path, [], conversationalTestCases=[scenario])).rows
    assert row["input"] == "A guest arrives."
    cases = [case("a", metric(1, True)), case("a", metric(0, False)), case("a", metric(1, True), input="other")]
    one, again, other = read_scores(written(tmp_path, cases)).rows
    assert again["id"] == f"{one['id']}/repeat 2"
    assert one["cluster"] == again["cluster"]
    assert "cluster" not in other
    assert len({one["id"], again["id"], other["id"]}) == 3


def test_figures_over_spans_too_are_noted_and_odd_files_refused(tmp_path: Path) -> None:
    said = [{"metric": "Toxicity", "scores": [1, 0], "passes": 1, "fails": 1, "errors": 0}]
    (note,) = read_scores(written(tmp_path, [case("a", metric(1, True))], metricsScores=said)).info["notes"]
    assert "deepeval itself gives 0.5 for Toxicity" in note
    for content, message in (
        ({"testCases": []}, "holds no test cases"),
        ({"testCases": [3]}, "testCases, case 1: a JSON object is expected"),
        ({"testCases": [{"name": "a", "metricsData": 3}]}, "metricsData: a JSON list is expected"),
        ({"testRunLink": "somewhere"}, "deepeval's link to a run"),
    ):
        path = tmp_path / "odd.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=message):
            read_scores(path)
