"""Results as promptfoo 0.123.1 wrote them (a provider of our own, --repeat 2, one test that ends in an error)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError

DATA = Path(__file__).parent / "data"
BASE, TUNED = DATA / "promptfoo_base.json", DATA / "promptfoo_tuned.json"


def loaded() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(BASE.read_text())
    return value


def written(folder: Path, value: Any, name: str = "results.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("path", [BASE, TUNED])
def test_means_are_promptfoo_s_over_the_tests_that_were_answered(path: Path) -> None:
    scores = read_scores(path)
    own = json.loads(path.read_text())["results"]["prompts"][0]["metrics"]
    answered = own["testPassCount"] + own["testFailCount"]
    assert scores.metrics["pass"] == pytest.approx(own["testPassCount"] / answered)
    assert scores.metrics["score"] == pytest.approx(own["score"] / answered)
    assert scores.metrics["says"] == own["namedScores"]["says"] / own["namedScoreWeights"]["says"]
    assert scores.metrics["cost"] == pytest.approx(own["cost"] / answered)
    directions = {name: entry["higher_is_better"] for name, entry in scores.info["metrics"].items()}
    assert directions == {"pass": True, "score": True, "says": True, "latencyMs": False, "cost": False}
    assert (scores.info["items"], scores.info["unscored"]) == (8, own["testErrorCount"])
    assert scores.rows[6]["unscored"] == "error: Error: overloaded"
    assert "2 tests ended in an error; promptfoo counts them as not passed" in scores.info["notes"][0]


def test_variables_are_the_input_assertions_the_reference_and_repeats_a_cluster() -> None:
    scores = read_scores(BASE)
    third = scores.rows[2]
    assert (third["id"], third["input"], third["reference"], third["prediction"]) == ("2", '{"q": "b"}', "b", "yes b")
    assert third["cluster"] == scores.rows[3]["cluster"]
    assert len({row["cluster"] for row in scores.rows}) == 4
    assert json.loads(scores.rows[0]["reference"])[0]["value"] == "Say", "several assertions are given as they are"
    comparison = compare(BASE, TUNED)
    assert (comparison.headline, comparison.metrics["pass"].items) == ("pass", 3), "repeats are one item"


def test_another_prompt_is_refused(tmp_path: Path) -> None:
    value = loaded()
    for result in value["results"]["results"]:
        result["promptId"] = "another"
    with pytest.raises(InputError, match="prompt differs"):
        compare(BASE, written(tmp_path, value))


def test_lines_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(result) + "\n" for result in loaded()["results"]["results"]))
    assert read_scores(path).rows == read_scores(BASE).rows


def test_several_prompts_and_providers_are_listed_with_the_command_that_takes_one(tmp_path: Path) -> None:
    value = loaded()
    others = [
        result | {"promptIdx": 1, "provider": {"id": "openai:gpt", "label": ""}}
        for result in value["results"]["results"]
    ]
    value["results"]["results"] += others
    with pytest.raises(InputError, match=r"of 2 prompts and providers: 0: base, 'Say .*', 1: openai:gpt, ") as caught:
        read_scores(written(tmp_path, value))
    assert "jq '.results.results |= map(select(.promptIdx == 0))' results.json > one.json" in str(caught.value.fix)
    lines = tmp_path / "results.jsonl"
    lines.write_text("".join(json.dumps(result) + "\n" for result in value["results"]["results"]))
    with pytest.raises(InputError) as caught:
        read_scores(lines)
    assert "jq -c 'select(.promptIdx == 0)' results.jsonl > one.jsonl" in str(caught.value.fix)


def test_weighted_figures_are_noted_and_cached_answers_have_neither_latency_nor_cost(tmp_path: Path) -> None:
    value = loaded()
    value["results"]["results"][0]["namedScores"] = {"says": 1}
    value["results"]["prompts"][0]["metrics"]["namedScores"] = {"says": 3}
    for result in value["results"]["results"]:
        if "response" in result:
            result["response"]["cached"] = True
    scores = read_scores(written(tmp_path, value))
    assert set(scores.metrics) == {"pass", "score", "says"}
    assert "promptfoo itself gives 0.375 for says; the mean of the 4 items" in scores.info["notes"][1]


def test_other_versions_and_odd_files_are_refused(tmp_path: Path) -> None:
    value = loaded()
    for version, said in ((2, "version 2"), (None, "version unknown")):
        value["results"]["version"] = version
        with pytest.raises(InputError, match=f"results of promptfoo in {said}; 3 is read"):
            read_scores(written(tmp_path, value))
    value["results"] |= {"version": 3, "results": [{"promptIdx": 0}]}
    with pytest.raises(InputError, match="result 1: lacks promptIdx or testIdx"):
        read_scores(written(tmp_path, value))
    for results in ([], [3]):
        value["results"]["results"] = results
        with pytest.raises(InputError, match=r"holds no rows|a JSON object is expected"):
            read_scores(written(tmp_path, value))
