"""Results as OpenCompass 0.5.4's EMEvaluator gave them (two questions, in one run and in three), and malformed ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError

FOLDER = Path(__file__).parent / "data" / "opencompass"
ONE, THREE = (FOLDER / "results" / "m1" / f"tiny_{runs}.json" for runs in (1, 3))


def written(folder: Path, value: Any, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_accuracy_is_opencompass_s_in_one_run() -> None:
    scores = read_scores(ONE)
    assert scores.metrics["correct"] * 100 == pytest.approx(json.loads(ONE.read_text())["score"])
    assert scores.info["metrics"]["correct"]["higher_is_better"] is True
    assert scores.rows[1] == {
        "id": "tiny_1",
        "input": "2**3=",
        "reference": '["8"]',
        "prediction": "0",
        "metrics": {"correct": 0.0},
    }
    assert scores.info["notes"] == []
    assert compare(ONE, ONE).metrics["correct"].items == 2


def test_several_runs_of_an_item_are_a_cluster_with_opencompass_s_average() -> None:
    scores = read_scores(THREE)
    assert scores.metrics["correct"] * 100 == pytest.approx(json.loads(THREE.read_text())["score (3 runs average)"])
    assert [row["id"] for row in scores.rows[:3]] == ["tiny_0", "tiny_0/repeat 2", "tiny_0/repeat 3"]
    assert [row["input"] for row in scores.rows] == ["2+2="] * 3 + ["2**3="] * 3
    assert [row["prediction"] for row in scores.rows] == ["4", "4", "0", "8", "8", "0"]
    assert len({row["cluster"] for row in scores.rows}) == 2
    assert scores.info["notes"] == []


def test_without_its_predictions_items_are_known_by_id(tmp_path: Path) -> None:
    path = tmp_path / ONE.name
    shutil.copy(ONE, path)
    scores = read_scores(path)
    assert [row["input"] for row in scores.rows] == ["tiny_0", "tiny_1"]
    assert "no prompts were found" in scores.info["notes"][0]


def test_predictions_of_other_items_are_not_taken(tmp_path: Path) -> None:
    for kind in ("results", "predictions"):
        (tmp_path / kind / "m1").mkdir(parents=True)
    path = tmp_path / "results" / "m1" / "tiny.json"
    shutil.copy(ONE, path)
    shutil.copy(FOLDER / "predictions" / "m1" / "tiny_3.json", tmp_path / "predictions" / "m1" / "tiny.json")
    assert read_scores(path).rows[0]["input"] == "tiny_0"


def test_details_by_number_as_before_0_4(tmp_path: Path) -> None:
    told = {"prompt": "2+2=", "origin_prediction": "It is 4", "predictions": "4", "references": "4", "correct": True}
    details = {
        "type": "GEN",
        "0": told,
        "1": told | {"prompt": "1+1=", "correct": False},
        "2": told | {"correct": None},
    }
    scores = read_scores(written(tmp_path, {"accuracy": 50.0, "details": details}))
    assert [row["input"] for row in scores.rows] == ["2+2=", "1+1=", "2+2="]
    assert scores.metrics == {"correct": 0.5}
    assert scores.rows[2]["unscored"] == "it is not said whether it is correct"


@pytest.mark.parametrize("name", ["is_correct", "cascade_correct"])
def test_other_names_that_opencompass_counts(tmp_path: Path, name: str) -> None:
    details = [{"example_abbr": f"s_{number}", "pred": ["a"], name: [number == 0]} for number in range(4)]
    scores = read_scores(written(tmp_path, {"accuracy": 25.0, "details": details}))
    assert scores.metrics == {"correct": 0.25}


def test_a_figure_that_is_no_mean_of_the_items_is_noted(tmp_path: Path) -> None:
    details = [{"example_abbr": f"s_{number}", "correct": [number == 0]} for number in range(4)]
    notes = read_scores(written(tmp_path, {"accuracy": 40.0, "details": details})).info["notes"]
    assert "OpenCompass itself gives 0.4 for correct; the mean of the 4 items" in notes[1]


def test_what_has_no_scores_of_items_is_refused_with_what_to_do(tmp_path: Path) -> None:
    predictions = FOLDER / "predictions" / "m1" / "tiny_1.json"
    with pytest.raises(InputError, match="holds OpenCompass's predictions, without scores") as caught:
        read_scores(predictions)
    assert "--dump-eval-details" in str(caught.value.fix)
    details = {"type": "GEN", "0": {"prompt": "", "predictions": "a", "references": "a"}}
    with pytest.raises(InputError, match=r"do not say which items are correct\. They have: prompt, predictions"):
        read_scores(written(tmp_path, {"accuracy": 50.0, "details": details}))
    with pytest.raises(InputError, match="details, item 2: a JSON object is expected"):
        read_scores(written(tmp_path, {"accuracy": 50.0, "details": [{"correct": [True]}, 3]}))
