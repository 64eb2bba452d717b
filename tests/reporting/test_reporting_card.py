"""The model card: front matter the Hub understands, the same figures, code that names the right class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from reporting_run_folder import classification_run

from tunelift.core import files
from tunelift.reporting import write_card


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return classification_run(tmp_path / "news", items=60)


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, body = write_card(folder).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def edit(folder: Path, file: str, section: str, **entries: object) -> None:
    value = files.read_json(folder / file)
    value[section] = {**value.get(section, {}), **entries}
    files.write_json(folder / file, value)


def test_front_matter_carries_the_results_of_both(folder: Path) -> None:
    front, _ = card(folder)
    assert front["library_name"] == "peft"
    assert front["tags"] == ["lora", "tunelift"]
    assert front["pipeline_tag"] == "text-generation"
    result = front["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "news_test.csv"
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    entry = files.read_json(folder / "comparison.json")["metrics"]["accuracy"]
    assert values["accuracy (tuned)"] == entry["tuned"]
    assert values["accuracy (base)"] == entry["base"]


def test_a_base_from_the_hub_is_named_with_its_revision(folder: Path) -> None:
    edit(folder, "manifest.json", "model", name="Qwen/Qwen3-0.6B", kind="hub", revision="abc123", note="")
    front, body = card(folder)
    assert front["base_model"] == "Qwen/Qwen3-0.6B"
    assert "`Qwen/Qwen3-0.6B` at revision `abc123`" in body
    assert 'AutoPeftModelForCausalLM.from_pretrained("adapter")' in body


def test_a_base_from_elsewhere_has_its_lineage_and_no_hub_id(folder: Path) -> None:
    front, body = card(folder)
    assert "base_model" not in front
    assert "Q4_K_M weights, dequantised" in body
    assert 'PeftModel.from_pretrained(base, "adapter")' in body


def test_no_folder_of_this_machine_is_told(folder: Path) -> None:
    edit(folder, "manifest.json", "model", name="/home/ann/models/tiny", kind="folder", path="/home/ann/models/tiny")
    config = (folder / "config.yaml").read_text().replace("news_train.csv", "/home/ann/news_train.csv")
    files.write_text(folder / "config.yaml", config)
    text = write_card(folder).read_text()
    assert "/home/ann" not in text
    assert "`tiny`" in text
    assert "2,000 rows of `news_train.csv`; the best adapter chosen on 200 others; tested on 300" in text


def test_a_head_is_loaded_with_its_labels(folder: Path) -> None:
    manifest = files.read_json(folder / "manifest.json")
    files.write_json(folder / "manifest.json", {**manifest, "task": "sequence-classification"})
    files.write_json(folder / "adapter" / "tunelift.json", {"format": 1, "labels": ["negative", "positive"]})
    front, body = card(folder)
    assert front["pipeline_tag"] == "text-classification"
    assert "AutoModelForSequenceClassification" in body
    assert "num_labels=2" in body
    assert "negative, positive" in body


def test_the_verdict_stands_above_the_table(folder: Path) -> None:
    _, body = card(folder)
    entry = files.read_json(folder / "comparison.json")["metrics"]["accuracy"]
    assert f"accuracy rose from {entry['base']:.3f} to {entry['tuned']:.3f}" in body
    assert f"| accuracy | {entry['base']:.3f} | {entry['tuned']:.3f} | +{entry['difference']:.3f} |" in body


def test_a_run_without_comparison_still_has_a_card(folder: Path) -> None:
    (folder / "comparison.json").unlink()
    front, body = card(folder)
    assert "model-index" not in front
    assert "## Load it" in body
