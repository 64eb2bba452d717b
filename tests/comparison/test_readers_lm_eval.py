"""Samples as lm-evaluation-harness 0.4.13 wrote them (its dummy model on small tasks), and malformed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

DATA = Path(__file__).parent / "data"


def samples(run: str, task: str) -> Path:
    return next((DATA / f"lm_eval_{run}").glob(f"samples_{task}_*.jsonl"))


def figures(run: str, task: str) -> dict[str, float]:
    """The harness's own averages."""
    found: dict[str, float] = json.loads(next((DATA / f"lm_eval_{run}").glob("results_*")).read_text())["results"][task]
    return found


def lines(run: str, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in samples(run, task).read_text().splitlines()]


def read_lines(folder: Path, rows: list[dict[str, Any]]) -> Scores:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_scores(path)


@pytest.mark.parametrize("run", ["a", "b"])
def test_multiple_choice_has_labels_and_the_harness_s_averages(run: str) -> None:
    scores = read_scores(samples(run, "tinymc"))
    for name in ("acc", "acc_norm", "acc_mutual_info"):
        assert scores.metrics[name] == pytest.approx(figures(run, "tinymc")[f"{name},none"])
    first = scores.rows[0]
    assert (first["id"], first["reference"]) == ("0", " 4")
    assert json.loads(first["input"]) == {"q": "2+2?", "choices": ["3", "4", "five"], "gold": 1}
    assert list(first["label_scores"]) == [" 3", " 4", " five"], "without the requests of acc_mutual_info"
    assert first["log_likelihood"] == first["label_scores"][" 4"]
    for row in scores.rows:
        assert row["prediction"] == max(row["label_scores"], key=row["label_scores"].get)
        assert (row["prediction"] == row["reference"]) == row["metrics"]["acc"]
    assert scores.info["made_with"]["task"] == "tinymc"
    assert "brier_score is made from all items together" in scores.info["notes"][0]


def test_each_filter_is_a_metric_of_its_own() -> None:
    scores = read_scores(samples("a", "tinygen"))
    said = figures("a", "tinygen")
    assert scores.metrics == {
        f"exact_match ({name})": pytest.approx(said[f"exact_match,{name}"])
        for name in ("strict-match", "flexible-extract")
    }
    assert [(row["prediction"], row["reference"]) for row in scores.rows] == [
        ("lol", "4"),
        ("lol", "8"),
        ("lol", "lol"),
    ]
    assert scores.info["made_with"]["decoding"] == {"until": ["\n"], "do_sample": False, "max_gen_toks": 32}


def test_perplexities_are_the_harness_s_own_ratios_of_sums() -> None:
    for task, names in (("tinyll", ["perplexity"]), ("tinyppl", ["word_perplexity", "bits_per_byte"])):
        found = compare(samples("a", task), samples("a", task), metric=names[0])
        for name in names:
            assert found.metrics[name].base == pytest.approx(figures("a", task)[f"{name},none"])
            assert found.metrics[name].higher_is_better is False


def test_directions_come_from_the_results_beside_the_samples(tmp_path: Path) -> None:
    beside = next((DATA / "lm_eval_a").glob("results_*"))
    results = json.loads(beside.read_text())
    results["higher_is_better"]["tinymc"]["acc"] = False
    path = tmp_path / samples("a", "tinymc").name
    path.write_text(samples("a", "tinymc").read_text())
    assert read_scores(path).info["metrics"]["acc"]["higher_is_better"] is True  # a well-known name
    (tmp_path / beside.name).write_text(json.dumps(results))
    assert read_scores(path).info["metrics"]["acc"]["higher_is_better"] is False
    for odd in ('{"higher_is_better": []}', '{"higher_is_better": {"tinymc": 3}}', "{}"):
        (tmp_path / beside.name).write_text(odd)
        assert read_scores(path).info["metrics"]["acc"]["higher_is_better"] is True
    with pytest.raises(InputError, match="averages, no single items"):
        read_scores(beside)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "pretrained=gpt2,peft=runs/my adapter,dtype=float32",
            "tunelift compare --adapter 'runs/my adapter' --model gpt2",
        ),
        ({"pretrained": "gpt2", "peft": "adapter"}, "tunelift compare --adapter adapter --model gpt2"),
        (None, "tunelift compare --adapter ADAPTER --model MODEL"),
    ],
)
def test_an_adapter_put_on_by_the_harness_is_warned_of(tmp_path: Path, arguments: Any, said: str) -> None:
    beside = next((DATA / "lm_eval_a").glob("results_*"))
    results = json.loads(beside.read_text())
    path = tmp_path / samples("a", "tinymc").name
    path.write_text(samples("a", "tinymc").read_text())
    results["config"] = {"model": "hf", "model_args": arguments, "peft_sha": ""}
    (tmp_path / beside.name).write_text(json.dumps(results))
    note = read_scores(path).info["notes"][-1]
    assert "makes the embeddings of the adapter's side alone longer or shorter" in note
    assert f"{said} --data ROWS evaluate.tasks=tinymc" in note
    for plain in ("pretrained=gpt2", {"pretrained": "gpt2"}, None, 3, [], "peft"):
        results["config"] = {"model": "hf", "model_args": plain}
        (tmp_path / beside.name).write_text(json.dumps(results))
        assert not any("embeddings" in note for note in read_scores(path).info["notes"])


def test_two_runs_are_compared_and_other_few_shot_examples_are_refused() -> None:
    comparison = compare(samples("a", "tinymc"), samples("b", "tinymc"))
    assert (comparison.headline, comparison.metrics["acc"].items) == ("acc", 4)
    with pytest.raises(InputError, match=r"prompt differs: .*prompts with the hash"):
        compare(samples("a", "tinymc"), next((DATA / "lm_eval_one_shot").glob("*.jsonl")))
    with pytest.raises(InputError, match="task differs"):
        compare(samples("a", "tinygen"), samples("a", "tinyll"))


def test_older_versions_without_names_of_metrics_hashes_and_named_arguments(tmp_path: Path) -> None:
    new = lines("a", "tinymc")
    old = [{key: value for key, value in row.items() if key not in ("metrics", "filter", "prompt_hash")} for row in new]
    for row in old:
        row["arguments"] = [list(request.values()) for request in row["arguments"].values()]
    now, then = read_scores(samples("a", "tinymc")), read_lines(tmp_path, old)
    assert then.rows == now.rows
    assert then.info["made_with"]["prompt"] == now.info["made_with"]["prompt"]


def test_choices_that_do_not_explain_the_accuracy_are_given_by_number(tmp_path: Path) -> None:
    rows = lines("a", "tinymc")
    rows[0]["acc"] = 1.0  # several correct choices, say
    rows[1]["target"] = "[0, 2]"
    rows[2]["target"] = "Jupiter"
    scores = read_lines(tmp_path, rows)
    assert (scores.rows[0]["reference"], scores.rows[0]["prediction"]) == ("1", "2")
    assert scores.rows[1]["reference"] == "[0, 2]"
    assert all("label_scores" not in row for row in scores.rows[:2])
    assert (scores.rows[2]["reference"], scores.rows[2]["prediction"]) == (" Jupiter", " Jupiter")


def test_malformed_samples_are_named_by_line(tmp_path: Path) -> None:
    rows = lines("a", "tinymc")
    cases = {
        "line 3: the item 0 stands there for the second time": [*rows[:2], rows[0]],
        "line 2: lacks doc_id, arguments or responses": [rows[0], {"doc_id": 1}],
        "line 2: the id is missing": [rows[0], rows[1] | {"doc_id": None}],
        'line 2: "arguments" must hold': [rows[0], rows[1] | {"arguments": "x"}],
        'line 1: "arguments" must hold': [rows[0] | {"arguments": {}}, rows[1]],
    }
    for message, bad in cases.items():
        with pytest.raises(InputError, match=message):
            read_lines(tmp_path, bad)


def test_odd_responses_and_metrics_end_in_rows_not_in_a_traceback(tmp_path: Path) -> None:
    row = lines("a", "tinymc")[0]
    odd: list[Any] = [None, [], {}, "x", [[]], [[None]], [{"a": 1}], [[["-0.5"]]], [["nan", "x"], 3]]
    for value in odd:
        for key in ("resps", "filtered_resps", "doc", "target", "acc", "metrics", "filter", "prompt_hash"):
            scores = read_lines(tmp_path, [row | {key: value}, row | {"doc_id": 1}])
            assert len(scores.rows) == 2
            assert all(isinstance(scores.rows[0][name], str) for name in ("input", "reference", "prediction"))
    empty = read_lines(tmp_path, [row | {"metrics": ["brier_score"]}, row | {"doc_id": 1}])
    assert empty.rows[0]["unscored"] == "it has no metric with a number for each item"
