"""The model card: front matter the Hub understands, the same figures, code that names the right class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from reporting_run_folder import classification_run, full_run

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
    assert front["tags"] == ["lora", "tunelift", "base_model:adapter:google/gemma-3-270m"]
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


@pytest.mark.parametrize(
    ("bundled", "original"),
    [("gemma3-270m", "google/gemma-3-270m"), ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2")],
)
def test_a_bundled_base_is_named_by_what_it_holds(folder: Path, bundled: str, original: str) -> None:
    edit(folder, "manifest.json", "model", name=bundled)
    front, body = card(folder)
    assert front["base_model"] == original
    assert front["base_model_relation"] == "adapter"
    assert f"It is `{original}`; on that model's own weights the figures can differ." in body
    assert "Q4_K_M weights, dequantised" in body


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_local_base_has_no_hub_id(folder: Path, kind: str) -> None:
    edit(folder, "manifest.json", "model", name="google/gemma-3-270m", kind=kind)
    front, body = card(folder)
    assert "base_model" not in front
    assert "base_model_relation" not in front
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
    assert body.index("The tuned model is better") < body.index("| accuracy |")
    assert f"| accuracy | {entry['base']:.3f} | {entry['tuned']:.3f} | +{entry['difference']:.3f} |" in body


def test_a_run_without_comparison_still_has_a_card(folder: Path) -> None:
    (folder / "comparison.json").unlink()
    front, body = card(folder)
    assert "model-index" not in front
    assert "## Load it" in body


def test_the_card_survives_the_hubs_own_reading_and_writing(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "full", items=60)
    text = write_card(folder).read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    read = ModelCard(text)
    assert isinstance(read.data, ModelCardData)
    assert read.data.to_dict() == front
    again = ModelCard(str(read))
    assert (again.data.to_dict(), again.text.strip()) == (front, read.text.strip())
    name, results = model_index_to_eval_results(front["model-index"])
    assert eval_results_to_model_index(name, results) == front["model-index"]
    assert [(result.dataset_name, result.metric_type) for result in results[::2]] == [
        ("news_test.csv", "accuracy"), ("news_test.csv", "loss"),
        ("general-text", "bits_per_byte"), ("arithmetic", "accuracy"),
    ]  # fmt: skip


def test_a_data_set_of_the_hub_is_named_and_a_file_is_not(folder: Path) -> None:
    front, _ = card(folder)
    assert "datasets" not in front
    config = (folder / "config.yaml").read_text().replace("news_train.csv", "ann/news@main")
    files.write_text(folder / "config.yaml", config.replace("news_test.csv", "0.2"))
    front, _ = card(folder)
    assert front["datasets"] == ["ann/news"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "ann/news"


def test_what_does_not_flatter_is_on_the_card(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "full", items=60)
    comparison = files.read_json(folder / "comparison.json")
    _, body = card(folder)
    lost = comparison["metrics"]["accuracy"]["discordant"]["lost"]
    assert f"{lost} test items went from right to wrong (accuracy). 1 item left out" in body
    assert "| general-text (bits per byte) | 1.043 | 1.061 | +0.018 |" in body
    assert "| tf-idf | 0.790 |" in body
    assert "each seed: +0.241, +0.228, +0.248, +0.235, +0.254" in body
    assert "The claim: this tuned model, on items like these." in body
    assert "The claim: this recipe, with other seeds, on these items." in body
