"""Whole runs on a tiny model: baselines, forgetting, seeds, duplicates and gates beside base and tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from small_rows import write_rows
from tunelift.cli.run import command as run_command
from tunelift.comparison.run_folder import compare_run
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.pipeline import stages
from tunelift.pipeline.run import run


def widen(folder: str, context: int = 1024) -> None:
    """Give the tiny model a context that holds general text."""
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": context}))


def test_a_run_measures_baselines_and_forgetting(tiny: dict[str, Any]) -> None:
    widen(tiny["model"])
    comparison = run(from_keywords("train", **tiny)).to_dict()
    out = Path(tiny["output"])
    assert {path.name for path in (out / "baselines").iterdir()} == {"few-shot", "majority", "tf-idf"}
    assert comparison["baselines"].keys() == {"few-shot", "majority", "tf-idf"}
    assert comparison["selection"]["values"].keys() == {"base", "few-shot", "majority", "tf-idf"}
    assert comparison["headline"]["against"] == comparison["selection"]["strongest"]
    assert comparison["forgetting"]["general-text"]["metric"] == "bits_per_byte"
    assert comparison["calibration"]["base"]["items"] == 20
    assert comparison["looks"] == 1
    few_shot, base = Scores.read(out / "baselines" / "few-shot"), Scores.read(out / "base")
    assert [row["input"] for row in few_shot.rows] == [row["input"] for row in base.rows]
    assert few_shot.info["made_with"]["prompt"] != base.info["made_with"]["prompt"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["verbatim"]["tokens"] == 25
    assert manifest["data"]["hygiene"]["labels"]["train"]
    assert {"base", "baselines", "forgetting", "train", "tuned"} <= manifest["seconds"].keys()
    for name in ("report.html", "report.md", "README.md"):
        assert "tf-idf" in (out / name).read_text()
    assert compare_run(out).to_dict() == comparison


def test_nothing_is_measured_beside_where_it_is_switched_off(tiny: dict[str, Any]) -> None:
    comparison = run(from_keywords("train", **tiny, baselines=[], forgetting=[])).to_dict()
    assert (comparison["baselines"], comparison["forgetting"], comparison["selection"]) == ({}, {}, None)
    assert comparison["headline"]["against"] == "base"
    assert not (Path(tiny["output"]) / "baselines").exists()


def test_a_set_of_the_users_is_measured_for_forgetting(tiny: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "other.csv", 12, start=300)
    settings = {**tiny, "baselines": [], "forgetting": ["other.csv"]}
    entry = run(from_keywords("train", **settings)).to_dict()["forgetting"]["other"]
    assert (entry["metric"], entry["items"]) == ("accuracy", 12)
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        run(from_keywords("train", **{**settings, "forgetting": ["nowhere.csv"], "output": str(tmp_path / "two")}))


def test_five_seeds_speak_of_the_recipe(tiny: dict[str, Any]) -> None:
    settings = {**tiny, "train": {"steps": 2, "seeds": [3, 1, 4, 5, 9]}, "baselines": [], "forgetting": []}
    comparison = run(from_keywords("train", **settings)).to_dict()
    out = Path(tiny["output"])
    assert comparison["recipe"]["seeds"] == [3, 1, 4, 5, 9]
    assert len(comparison["recipe"]["differences"]) == 5
    adapters = {(out / "seeds" / str(s) / "adapter" / "adapter_model.safetensors").read_bytes() for s in (1, 4, 5, 9)}
    assert len(adapters | {(out / "adapter" / "adapter_model.safetensors").read_bytes()}) == 5
    assert all(proof["passed"] for proof in json.loads((out / "seeds" / "9" / "manifest.json").read_text())["proofs"])


def test_wrong_names_are_found_before_anything_is_written(tiny: dict[str, Any]) -> None:
    for settings, message in (
        ({"baselines": ["tfidf"]}, r'no baseline "tfidf"\. Did you mean "tf-idf"'),
        ({"baselines": ["linear-probe"]}, "linear-probe does not fit"),
        ({"slices": ["topic"]}, 'the column "topic"'),
    ):
        with pytest.raises(InputError, match=message):
            run(from_keywords("train", **tiny, **settings))
    with pytest.raises(InputError, match=r'A gate is about "acuracy", which is not measured\. Did you mean'):
        run(from_keywords("train", **tiny), ["acuracy"])
    assert not Path(tiny["output"]).exists()


def test_naming_a_set_keeps_general_text_and_none_names_none() -> None:
    assert from_keywords("train", model="m", data="d", forgetting="").evaluate.forgetting == []
    named = from_keywords("train", model="m", data="d", forgetting="a.csv,b.csv").evaluate.forgetting
    assert named == ["a.csv", "b.csv"]


def test_tune_alone_takes_one_seed(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"train\.seeds trains several adapters"):
        stages.tune_stage(from_keywords("train", **{**tiny, "train": {"steps": 2, "seeds": [1, 2]}}))


def test_test_items_that_train_repeats_are_marked_and_left_out_once(tiny: dict[str, Any]) -> None:
    train = Path(tiny["data"]["train"])
    rows = Path(tiny["data"]["test"]).read_text().splitlines()
    train.write_text("\n".join([*train.read_text().splitlines(), *rows[1:4]]) + "\n")
    comparison = run(from_keywords("train", **tiny, baselines=[], forgetting=[])).to_dict()
    assert comparison["without_duplicates"]["removed"] == 3
    assert comparison["without_duplicates"]["items"] == 17
    marked = [row["id"] for row in Scores.read(Path(tiny["output"]) / "tuned").rows if row.get("duplicate_of")]
    assert len(marked) == 3


def test_slices_and_margin_come_from_the_config(tiny: dict[str, Any]) -> None:
    column = Path(tiny["data"]["test"]).read_text().splitlines()[0].split(",")[1]
    settings = {**tiny, "baselines": [], "forgetting": [], "slices": [column], "margin": 0.9}
    comparison = run(from_keywords("train", **settings)).to_dict()
    assert sum(entry["items"] for entry in comparison["slices"][column].values()) == 20
    assert comparison["margin"] == 0.9
    assert "no_worse" in comparison["metrics"]["accuracy"]


def test_a_gate_that_does_not_pass_exits_with_3_after_the_result(tiny: dict[str, Any]) -> None:
    data = tiny["data"]
    arguments = ["--model", tiny["model"], "--data", data["train"], "--test", data["test"], "--steps", "1",
                 "--learning-rate", "1e-4", "--dtype", "float32", "--output", tiny["output"],
                 "evaluate.baselines=[]", "evaluate.forgetting=[]"]  # fmt: skip
    result = CliRunner().invoke(run_command, [*arguments, "--require-better", "accuracy"])
    assert result.exit_code == 3, result.output
    assert "Gate failed: better on accuracy was required" in result.output
    usage = CliRunner().invoke(run_command, [*arguments, "--require-no-worse", "accuracy"])
    assert usage.exit_code == 2
    assert "--margin" in usage.output
