"""Details as lighteval 0.13.0's EvaluationTracker wrote them (three tasks of our own), and malformed ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import matched, read_scores
from tunelift.core.errors import InputError

DATA = Path(__file__).parent / "data" / "lighteval"
DATE = "2026-11-28T19-12-09.656872"


def laid_out(folder: Path, task: str, model: str = "org/m1", *, results: bool = True) -> Path:
    """Lay a task's files out as lighteval does, and return the details."""
    pytest.importorskip("pyarrow")
    path = folder / "details" / model / DATE / f"details_{task}|0_{DATE}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / f"details_{task}.parquet", path)
    if results:
        beside = folder / "results" / model / f"results_{DATE}.json"
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / f"results_{task}.json", beside)
    return path


def figures(task: str) -> dict[str, float]:
    """lighteval's own averages."""
    found: dict[str, float] = json.loads((DATA / f"results_{task}.json").read_text())["results"][f"{task}|0"]
    return found


def detail(name: str = "0", metric: Mapping[str, Any] | None = None, **document: Any) -> dict[str, Any]:
    asked = {"id": name, "query": f"q{name}", "choices": ["yes", "no"], "gold_index": 0, "task_name": "t|0"} | document
    return {"doc": asked, "metric": {"em": 1} if metric is None else metric, "model_response": {"text": ["yes"]}}


def written(folder: Path, rows: list[Any], name: str = "details.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows))
    return path


def test_means_are_lighteval_s_and_both_ways_of_asking_are_one_row(tmp_path: Path) -> None:
    path = laid_out(tmp_path, "tinymc")
    scores = read_scores(path)
    own = figures("tinymc")
    assert scores.metrics == {name: pytest.approx(own[name]) for name in ("em", "acc")}
    assert all(entry["higher_is_better"] for entry in scores.info["metrics"].values())
    assert [row["id"].partition("/")[0] for row in scores.rows] == ["0", "1", "0"], "ids of two splits begin anew"
    assert len({row["id"] for row in scores.rows}) == 3
    assert (scores.rows[1]["input"], scores.rows[1]["reference"]) == ("2+2", " 4")
    assert scores.info["made_with"]["model"] == "org/m1"
    (note,) = scores.info["notes"]
    assert "mcc is made from all documents together" in note
    assert compare(path, path).metrics["acc"].items == 3


def test_perplexities_are_made_of_sums_as_lighteval_s_and_better_lower(tmp_path: Path) -> None:
    path = laid_out(tmp_path, "tinyppl")
    beside = next((tmp_path / "results").rglob("*.json"))
    config = json.loads(beside.read_text())["config_tasks"]["tinyppl|0"]["metrics"]
    assert config[0]["higher_is_better"] is True, "what lighteval's registry says of prediction_perplexity"
    scores = read_scores(path)
    assert scores.rows[2]["counts"]["perplexity"] == {"nats": 4.0, "weight": 1.0}
    metrics = compare(path, path).metrics
    own = figures("tinyppl")
    assert metrics["perplexity"].base == pytest.approx(own["ppl"])
    assert metrics["word_perplexity"].base == pytest.approx(own["word_perplexity"])
    assert [metrics[name].higher_is_better for name in ("perplexity", "word_perplexity")] == [False, False]
    odd = [detail("0", {"ppl": {"logprobs": None}, "word_perplexity": {"logprobs": -1, "weights": 0}})]
    assert "unscored" in read_scores(written(tmp_path, odd, "odd.json")).rows[0]


def test_a_figure_that_is_the_greatest_item_is_noted(tmp_path: Path) -> None:
    """Metrics.drop is aggregated by max: one right answer of three is 1.0."""
    scores = read_scores(laid_out(tmp_path, "tinydrop"))
    assert figures("tinydrop") == {"em": 1.0, "f1": 1.0}
    assert scores.metrics == {"em": pytest.approx(1 / 3), "f1": pytest.approx(1 / 3)}
    assert "lighteval itself gives 1 for em; the mean of the 3 items" in scores.info["notes"][0]


def test_directions_without_results_are_the_registry_s(tmp_path: Path) -> None:
    path = laid_out(tmp_path, "tinymc", results=False)
    assert read_scores(path).info["metrics"]["acc"]["higher_is_better"] is True
    metrics = {"pass@k:k=1&n=2": 1, "summac": 3, "mine": 1}
    info = read_scores(written(tmp_path, [detail("0", metrics), detail("1", metrics)])).info
    assert [entry["higher_is_better"] for entry in info["metrics"].values()] == [True, True, None]


def test_rows_as_json_repeats_and_several_right_choices(tmp_path: Path) -> None:
    rows = [
        detail("0"),
        detail("0", {"em": 0}),
        detail("1", {}),
        detail("2", gold_index=[0, 1]),
        detail("3", gold_index=9),
    ]
    for name in ("a.jsonl", "a.json"):
        scores = read_scores(written(tmp_path, rows, name))
        assert [row["id"] for row in scores.rows] == ["0", "0/repeat 2", "1", "2", "3"]
    assert scores.rows[0]["cluster"] == scores.rows[1]["cluster"]
    assert scores.rows[2]["unscored"] == "it has no metric with a number of its own"
    assert [row["reference"] for row in scores.rows[3:]] == ['["yes", "no"]', "[]"]
    others = written(tmp_path, [detail("0", fewshot_samples=[{}])], "others.jsonl")
    with pytest.raises(InputError, match="prompt differs"):
        compare(written(tmp_path, [detail("0")]), others)


def test_the_one_task_of_two_folders_is_found_and_averages_are_refused(tmp_path: Path) -> None:
    base, tuned = (laid_out(tmp_path / side, "tinymc") for side in ("base", "tuned"))
    laid_out(tmp_path / "base", "tinyppl")
    assert matched(base.parent, tuned.parent) == (base, tuned)
    averages = next((tmp_path / "tuned" / "results").rglob("*.json"))
    with pytest.raises(InputError, match="holds lighteval's averages, no single items") as caught:
        read_scores(averages)
    assert "details_*.parquet" in str(caught.value.fix)


def test_older_and_odd_details_are_refused(tmp_path: Path) -> None:
    old = {"full_prompt": "q", "predictions": "['a']", "gold_index": "[0]", "metrics": {"acc": 1}, "choices": "[]"}
    with pytest.raises(InputError, match=r"line 1: details as lighteval wrote them before 0\.11"):
        read_scores(written(tmp_path, [old, old]))
    with pytest.raises(InputError, match="line 2: lacks doc, metric or model_response"):
        read_scores(written(tmp_path, [detail(), {"doc": {}}]))
    pytest.importorskip("pyarrow")
    torn = tmp_path / "torn.parquet"
    torn.write_bytes((DATA / "details_tinymc.parquet").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"torn\.parquet cannot be read as parquet"):
        read_scores(torn)
