"""The rows of a benchmark, tokenised once for everybody, and the adapter that everybody begins with."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import read_job, write_result

from tunelift.core.records import Example
from tunelift.data.render import Renderer

Pairs = list[tuple[str, str]]
"""Prompt and completion of each row."""

IGNORED = -100
LONG_RUN = 50
"""Batches of the long run that the rows stand for: as many as transformers' sampler groups by length at a time."""


def gsm8k(data: Path, split: str) -> Pairs:
    with (data / f"gsm8k_{split}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [(f"Question: {row['question']}\nAnswer:", f" {row['answer']}") for row in rows]


def banking77(data: Path, split: str) -> Pairs:
    with (data / f"banking77_{split}.csv").open(encoding="utf-8", newline="") as lines:
        return [(f"Message: {row['text']}\nIntent:", f" {row['category']}") for row in csv.DictReader(lines)]


def sst2(data: Path, split: str) -> Pairs:
    rows = [line.split("\t", 1) for line in (data / f"sst2_{split}.tsv").read_text(encoding="utf-8").splitlines()]
    return [(f"Review: {text}\nSentiment:", " positive" if label == "1" else " negative") for label, text in rows]


SHOTS = 8


def sst2_behind_shots(data: Path, split: str) -> Pairs:
    """Every row behind the same eight labelled reviews, which are in no row themselves."""
    shots = sst2(data, "train")[:SHOTS]
    prefix = "".join(f"{prompt}{completion}\n\n" for prompt, completion in shots)
    return [(prefix + prompt, completion) for prompt, completion in sst2(data, split)[SHOTS:]]


def sst2_texts(data: Path, split: str) -> Pairs:
    """Bare sentences and class indices, for a head."""
    rows = [line.split("\t", 1) for line in (data / f"sst2_{split}.tsv").read_text(encoding="utf-8").splitlines()]
    return [(text, label) for label, text in rows]


KINDS: dict[str, Callable[[Path, str], Pairs]] = {
    "gsm8k": gsm8k,
    "sst2": sst2,
    "sst2-8shot": sst2_behind_shots,
    "banking77": banking77,
    "sst2-head": sst2_texts,
}


def main() -> None:
    job = read_job()
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    read = KINDS[job["kind"]]
    model, tokenizer = model_and_tokenizer(job)
    head = job["kind"] == "sst2-head"
    pairs = drawn(read(Path(job["data"]), "train"), max(LONG_RUN, job["steps"]) * job["batch_size"])
    train = shuffled(spread_by_length(tokenised(pairs, tokenizer, head), job["steps"], job["batch_size"]))
    held_out = tokenised(drawn(read(Path(job["data"]), "test"), job["held_out"]), tokenizer, head)
    adapter = folder / "first-adapter"
    first_adapter(model, adapter, head)
    rows = {"model": model, "name": job["model"], "adapter": str(adapter), "train": train, "held_out": held_out}
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    write_result(tokens=sum(len(row["input_ids"]) for row in train), rows=len(train))


def model_and_tokenizer(job: dict[str, Any]) -> tuple[str, Any]:
    """Return the folder that stock transformers loads the model from, and its tokenizer."""
    from tunelift.models import load_tokenizer
    from tunelift.models.sources import resolve

    return resolve(job["model"])[0].path, load_tokenizer(job["model"])


def drawn(pairs: Pairs, count: int) -> Pairs:
    return random.Random(0).sample(pairs, min(count, len(pairs)))


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return random.Random(0).sample(rows, len(rows))


def tokenised(pairs: Pairs, tokenizer: Any, head: bool = False) -> list[dict[str, Any]]:
    """Return {"prompt", "completion", "input_ids" (T,), "labels" (T,), or the class index for a head} for each row."""
    renderer, rows = Renderer(tokenizer, 1024), []
    for number, (prompt, completion) in enumerate(pairs):
        example = Example(str(number), prompt, completion)
        tokens = renderer.head_tokens(example) if head else renderer.tokens(example)
        in_loss = [token if kept else IGNORED for token, kept in zip(tokens.ids, tokens.in_loss, strict=True)]
        labels = int(completion) if head else in_loss
        rows.append({"prompt": prompt, "completion": completion, "input_ids": tokens.ids, "labels": labels})
    return rows


def spread_by_length(rows: list[dict[str, Any]], steps: int, batch_size: int) -> list[dict[str, Any]]:
    """Return `steps` batches, evenly spread over all rows sorted by length and cut into batches.

    A few steps then have the lengths of a long run, and grouping by length leaves as little padding as it does there.
    """
    rows = sorted(rows, key=lambda row: -len(row["input_ids"]))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows) - batch_size + 1, batch_size)]
    return [row for i in range(steps) for row in batches[int((i + 0.5) * len(batches) / steps)]]


def first_adapter(model: str, folder: Path, head: bool) -> None:
    """Save a fresh LoRA (and head) made by stock peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    base = kind.from_pretrained(model, dtype=torch.float32, **({"num_labels": 2} if head else {}))
    task = "SEQ_CLS" if head else "CAUSAL_LM"
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type=task)
    get_peft_model(base, config).save_pretrained(folder, save_embedding_layers=False)


if __name__ == "__main__":
    main()
