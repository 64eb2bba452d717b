"""One rule for the labels that an answer is chosen from: a run, an evaluation and a comparison of an adapter agree."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

import tunelift
from tunelift.config.keywords import from_keywords
from tunelift.pipeline import stages
from tunelift.pipeline.run import run


def scoring(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["made_with"]["label_scoring"]
    return found


@pytest.fixture
def narrow(tiny: dict[str, Any]) -> dict[str, Any]:
    """The tiny run with a third label, which no test row has."""
    path = Path(tiny["data"]["train"])
    rows = list(csv.DictReader(path.open()))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | ({"label": "code"} if index % 5 == 0 else {}) for index, row in enumerate(rows))
    return tiny


def test_all_commands_rank_the_same_labels(
    narrow: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(from_keywords("train", **narrow))
    ran = scoring(tmp_path / "out" / "base")
    assert ran["labels"] == 3
    assert "labels: 3, of train, validation, test" in capsys.readouterr().err
    with_train = narrow | {"output": str(tmp_path / "scores")}
    stages.evaluate_stage(from_keywords("train", **with_train))
    assert scoring(tmp_path / "scores") == ran
    data = {"test": narrow["data"]["test"]}
    beside = {"model": narrow["model"], "dtype": "float32", "data": data, "output": str(tmp_path / "compared")}
    stages.compare_adapter(from_keywords("evaluate", **beside), str(tmp_path / "out" / "adapter"))
    assert scoring(tmp_path / "compared" / "tuned") == ran == scoring(tmp_path / "compared" / "base")
    assert "those that the adapter was trained on" in capsys.readouterr().err
    model, tokenizer = tunelift.load(narrow["model"], dtype="float32")
    by_hand = tunelift.evaluate(model, tokenizer, data=narrow["data"])
    assert by_hand.info["made_with"]["label_scoring"] == ran
    base = tunelift.Scores.read(tmp_path / "out" / "base")
    assert by_hand.metrics["accuracy"] == base.metrics["accuracy"]


def test_labels_of_the_test_rows_alone_are_said_to_be_that(
    narrow: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = {"model": narrow["model"], "data": {"test": narrow["data"]["test"]}, "output": str(tmp_path / "alone")}
    stages.evaluate_stage(from_keywords("evaluate", **alone))
    said = capsys.readouterr().err
    assert "of test; name data.train or data.labels where there are others" in said
    assert scoring(tmp_path / "alone")["labels"] == 2


def test_a_metric_of_probabilities_reads_many_labels_to_their_end(tiny: dict[str, Any], tmp_path: Path) -> None:
    for name in ("train", "test"):
        lines = [{"prompt": f"{name} {i}", "completion": f" label {i % 20}"} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"test": str(tmp_path / "test.jsonl"), "train": str(tmp_path / "train.jsonl")}
    model, tokenizer = tunelift.load(tiny["model"], dtype="float32")
    plain = tunelift.evaluate(model, tokenizer, data=files, metrics=["accuracy"])
    whole = tunelift.evaluate(model, tokenizer, data=files, metrics=["accuracy", "brier"])
    assert {len(row["label_scores"]) for row in whole.rows} == {20}
    assert [row["prediction"] for row in whole.rows] == [row["prediction"] for row in plain.rows]
    for row in whole.rows:
        scores = row["label_scores"]
        total = math.fsum(math.exp(score) for score in scores.values())
        shares = {label: math.exp(score) / total for label, score in scores.items()}
        expected = sum((share - (label == row["reference"])) ** 2 for label, share in shares.items())
        assert row["metrics"]["brier"] == pytest.approx(expected)
    found = tunelift.compare(whole, whole).to_dict()["calibration"]
    assert found["base"]["brier"] == pytest.approx(whole.metrics["brier"])
    best = [(row, row["prediction"]) for row in plain.rows]
    lacking = tunelift.Scores(
        [{**row, "label_scores": {one: row["label_scores"][one]}} for row, one in best], plain.info
    )
    assert tunelift.compare(lacking, lacking).to_dict()["calibration"].keys() == {"note"}
    assert "alibration" not in str(tunelift.compare(lacking, lacking))
