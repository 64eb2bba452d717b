"""A run as HELM 0.5.16's Metric.evaluate gave it (two trials, two splits, one perturbation), and malformed ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError

RUN = Path(__file__).parent / "data" / "helm" / "run"
STATS = RUN / "per_instance_stats.json"


def copied(folder: Path, *names: str) -> Path:
    for name in names or ("per_instance_stats.json",):
        shutil.copy(RUN / name, folder / name)
    return folder / "per_instance_stats.json"


def stat(name: str, mean: float | None, count: int = 1, **context: Any) -> dict[str, Any]:
    return {"name": {"name": name, **context}, "count": count, "sum": 1, "sum_squared": 1, "mean": mean}


def written(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_each_split_and_perturbation_has_helm_s_own_figure() -> None:
    scores = read_scores(STATS)
    own = {}
    for told in json.loads((RUN / "stats.json").read_text()):
        name, perturbation = told["name"], told["name"].get("perturbation", {"name": "", "computed_on": "perturbed"})
        if perturbation["computed_on"] == "perturbed" and not name["name"].startswith("num_"):
            context = ", ".join(part for part in (name["split"], perturbation["name"]) if part)
            own[f"{name['name']} ({context})"] = told["mean"]
    assert own["exact_match (test, typos)"] == 0.25
    assert scores.metrics == {name: pytest.approx(mean) for name, mean in own.items()}
    assert scores.info["metrics"]["toxic_frac (test)"]["higher_is_better"] is False
    assert scores.info["metrics"]["exact_match (test)"]["higher_is_better"] is True
    assert scores.info["notes"] == []


def test_questions_and_answers_come_from_the_files_beside_and_an_instance_is_a_cluster(tmp_path: Path) -> None:
    first = read_scores(STATS).rows[0]
    assert {key: first[key] for key in ("id", "input", "reference", "prediction", "cluster")} == {
        "id": "id0/trial 0",
        "input": "q0",
        "reference": "a0",
        "prediction": "a0",
        "cluster": "id0",
    }
    assert {row["id"]: row["prediction"] for row in read_scores(STATS).rows}["id1/typos/trial 1"] == "x"
    path = copied(tmp_path)
    alone = read_scores(path)
    assert (alone.rows[0]["input"], alone.rows[0]["prediction"]) == ("id0", "")
    assert "items are known by id alone" in alone.info["notes"][0]
    instance = {"id": "id0", "input": {"text": "q0"}, "references": []}
    written(tmp_path, "instances.json", [instance])
    written(
        tmp_path, "display_predictions.json", [{"instance_id": "id0", "train_trial_index": 1, "predicted_text": "x"}]
    )
    rows = {row["id"]: row for row in read_scores(path).rows}
    assert (rows["id0/trial 0"]["input"], rows["id0/trial 0"]["prediction"]) == ("q0", "")
    assert (rows["id0/trial 1"]["input"], rows["id0/trial 1"]["prediction"]) == ("q0", "x")


def test_perturbations_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = []
    for prob in (0.1, 0.5):
        perturbation = {"name": "misspellings", "prob": prob}
        told = [stat("exact_match", prob, split="test", perturbation=perturbation)]
        rows.append({"instance_id": "a", "perturbation": perturbation, "train_trial_index": 0, "stats": told})
    scores = read_scores(written(tmp_path, "per_instance_stats.json", rows))
    assert [row["id"] for row in scores.rows] == [
        f'a/{{"name": "misspellings", "prob": {prob}}}' for prob in (0.1, 0.5)
    ]
    assert list(scores.metrics.values()) == [0.1, 0.5]


def test_one_split_and_trial_needs_no_context(tmp_path: Path) -> None:
    rows = [
        {"instance_id": "a", "train_trial_index": 0, "stats": [stat("num_prompt_tokens", 7), stat("exact_match", 1)]},
        {"instance_id": "a", "train_trial_index": 0, "stats": [stat("novel", 0.5), stat("skipped", None)]},
        {"instance_id": "b", "train_trial_index": 0, "stats": [stat("num_prompt_tokens", 7)]},
    ]
    scores = read_scores(written(tmp_path, "per_instance_stats.json", rows))
    assert scores.metrics == {"exact_match": 1.0, "novel": 0.5}
    assert [row["id"] for row in scores.rows] == ["a", "b"]
    assert "cluster" not in scores.rows[0]
    assert scores.rows[1]["unscored"] == "HELM gives no metric of its answer"
    assert scores.info["metrics"]["novel"]["higher_is_better"] is None


def test_the_schema_beside_the_runs_says_directions_and_run_spec_how_it_was_made(tmp_path: Path) -> None:
    sides = []
    for side, temperature in (("base", 0.0), ("tuned", 1.0)):
        folder = tmp_path / side / "run"
        folder.mkdir(parents=True)
        rows = [{"instance_id": "a", "train_trial_index": 0, "stats": [stat("novel", 1), stat("exact_match", 1)]}]
        sides.append(written(folder, "per_instance_stats.json", rows))
        adapter = {"model": side, "model_deployment": side, "instructions": "Answer.", "temperature": temperature}
        written(folder, "run_spec.json", {"adapter_spec": adapter, "scenario_spec": {"class_name": "Mmlu"}})
        metrics = [{"name": "novel", "lower_is_better": True}, {"name": "exact_match"}, 3]
        written(folder.parent, "schema.json", {"metrics": metrics})
    info = read_scores(sides[0]).info
    assert [entry["higher_is_better"] for entry in info["metrics"].values()] == [False, True]
    assert info["made_with"]["model"] == "base"
    with pytest.raises(InputError, match=r"decoding differs: \{\"temperature\": 0\.0"):
        compare(*sides)


def test_several_values_an_item_and_figures_that_differ_are_noted(tmp_path: Path) -> None:
    rows = [
        {"instance_id": name, "train_trial_index": 0, "stats": [stat("novel", mean, count)]}
        for name, mean, count in (("a", 1.0, 3), ("b", 0.0, 1))
    ]
    written(tmp_path, "stats.json", [stat("novel", 0.75, 4), stat("other", 3)])
    notes = read_scores(written(tmp_path, "per_instance_stats.json", rows)).info["notes"]
    assert "novel has several values an item" in notes[0]
    assert "HELM itself gives 0.75 for novel; the mean of the 2 items" in notes[2]


def test_a_run_s_folder_is_read_and_its_other_files_are_refused_by_name(tmp_path: Path) -> None:
    assert read_scores(RUN).rows == read_scores(STATS).rows
    for name, message in (
        ("stats.json", "HELM's averages, no single items"),
        ("scenario_state.json", "HELM's requests and answers, without scores"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_scores(RUN / name)
        assert "per_instance_stats.json" in str(caught.value.fix)
    shown = [{"instance_id": "a", "train_trial_index": 0, "predicted_text": "x", "stats": {"exact_match": 1.0}}]
    for name, value in (
        ("run_spec.json", {"name": "x", "adapter_spec": {}, "scenario_spec": {}}),
        ("display_predictions.json", shown),
    ):
        with pytest.raises(InputError, match="HELM"):
            read_scores(written(tmp_path, name, value))


def test_odd_files_are_refused(tmp_path: Path) -> None:
    good = {"instance_id": "a", "stats": [stat("exact_match", 1)]}
    for rows, message in (
        ([good, {"instance_id": "b"}], "item 2: lacks instance_id or stats"),
        ([good | {"instance_id": None}], "item 1: the id is missing"),
    ):
        with pytest.raises(InputError, match=message):
            read_scores(written(tmp_path, "per_instance_stats.json", rows))
    path = written(tmp_path, "per_instance_stats.json", [good | {"stats": [3, {"name": 3}, stat("exact_match", 1)]}])
    assert read_scores(path).metrics == {"exact_match": 1.0}
    for name in ("run_spec.json", "stats.json", "scenario_state.json", "../schema.json"):
        odd = written(tmp_path, name, 3)
        with pytest.raises(InputError, match="is expected"):
            read_scores(path)
        odd.unlink()
