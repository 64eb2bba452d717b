"""Sentence models side by side: MiniLM with LoRA on banking77 and STS, sentence-transformers' trainer and tunelift.

    python benchmarks/embeddings.py [--quick] [--steps 100] [--rows banking77,sts] [--rounds 3] [--out FILE.json]
                                    [--no-dropout] [--work FOLDER --minutes 15]

The same pairs from the same initial adapter; batches of 32, AdamW 2e-4, dropout. Each round has an order and a seed of
its own, alike for all; with --no-dropout nothing but rounding tells the trainers apart. On banking77 two questions of
one intent are a pair (multiple negatives ranking loss), on STS pairs have scores (CoSENT). "tunelift, labels" knows
which pairs are of one intent. What each adapter learned is measured by one script: vectors of sentence-transformers,
and of banking77's test questions how well those of the same intent are found.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
import train
from side_by_side import Result, Setting

from tunelift.core.records import Example, Near
from tunelift.tasks.sentence_embedding import paired

MODEL = "all-minilm-l6-v2"
FLOAT, LABELS = f"{train.OURS}, float32", f"{train.OURS}, labels"
TRAINED_ON, TESTED_ON = ("sts2014_images.tsv", "sts2015_headlines.tsv"), "sts2015_images.tsv"


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    peers = side_by_side.peers_python(options.peers_env)
    figures: Result = side_by_side.facts(peers) | {"kinds": {}}
    side_by_side.print_facts(figures)
    latest = side_by_side.deadline(options)
    for kind in options.rows.split(","):
        with side_by_side.work_folder(options) as folder:
            made = folder / kind
            made.mkdir(exist_ok=True)
            figures["kinds"][kind] = trained(kind, options, peers, made, latest)
        side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default="banking77,sts", help="kinds of rows, separated by commas")
    parser.add_argument("--steps", type=int, help="steps of each run")
    parser.add_argument("--no-dropout", action="store_true", help="drop nothing, so that all take the same steps")


def trained(kind: str, options: argparse.Namespace, peers: str, scratch: Path, latest: float) -> Result:
    """Train in every way in turns, measure what was learned, print the table, return all figures."""
    steps, rounds = (options.steps or 3, 1) if options.quick else (options.steps or 100, options.rounds or 3)
    rows = {"banking77": banking77, "sts": sts}[kind](options.data, 32 * steps)
    if options.quick:
        rows["test"] = rows["test"][:60]
    rows |= {"model": folder_of_the_model(), "name": MODEL, "adapter": f"{scratch}/first"}
    first_adapter(rows["model"], scratch / "first")
    (scratch / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    job = {"rows": f"{scratch}/rows.json", "batch_size": 32, "learning_rate": 2e-4, "limit_seconds": 600.0}
    job["no_dropout"] = options.no_dropout
    ways: dict[str, train.Way] = {
        train.OURS: ("our_embeddings.py", sys.executable, {}),
        FLOAT: ("our_embeddings.py", sys.executable, {"products": "float32"}),
        "sentence-transformers fp32": ("sentence_trainer.py", peers, {}),
        "sentence-transformers bf16": ("sentence_trainer.py", peers, {"bf16": True}),
    }
    if kind == "banking77":
        ways[LABELS] = ("our_embeddings.py", sys.executable, {"labels": True})
    settings = [
        Setting(name, script, python, job | dict(extra) | {"out": f"{scratch}/{number}"})
        for number, (name, (script, python, extra)) in enumerate(ways.items())
    ]
    results = side_by_side.in_turns(settings, rounds, scratch, lambda *_: True, latest)
    done = [s for s in settings if train.digest(results.get(s.name, []))]
    adapters = {"base": [None]} | {s.name: [f"{s.job['out']}-{i}" for i in range(len(results[s.name]))] for s in done}
    measuring = Setting("what was learned", "vectors.py", peers, job | {"adapters": adapters})
    learned = side_by_side.once(measuring, scratch).get("values", {})
    summary = train.summary({name: runs for name, runs in results.items() if name not in (FLOAT, LABELS)})
    summary["settings"] = {name: train.digest(runs) for name, runs in results.items()}
    figures = {"settings": results, "learned": learned, "summary": summary, "pairs": len(rows["train"])}
    show(kind, figures)
    return figures


def banking77(data: Path, count: int) -> dict[str, Any]:
    """Return pairs of questions of one intent, with the intent, and the test questions with theirs."""
    train_rows, test = (list(csv.DictReader((data / f"banking77_{s}.csv").open(encoding="utf-8", newline="")))
                        for s in ("train", "test"))  # fmt: skip
    made = paired([Example(str(i), row["text"], row["category"]) for i, row in enumerate(train_rows)])
    pairs = [[e.prompt, e.completion, e.wanted.kind] for e in made if isinstance(e.wanted, Near)]
    return {"train": drawn(pairs, count), "test": [[row["text"], row["category"]] for row in test]}


def sts(data: Path, count: int) -> dict[str, Any]:
    """Return pairs with their scores."""
    pairs = [pair for name in TRAINED_ON for pair in scored(data / name)]
    return {"train": drawn(pairs, count), "test": scored(data / TESTED_ON)}


def scored(file: Path) -> list[list[Any]]:
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    return [[first, second, float(score)] for score, first, second in rows if score]


def drawn(pairs: list[Any], count: int) -> list[Any]:
    """Return so many pairs in an order of their own, all of them before one comes again."""
    times = -(-count // len(pairs))
    return [pair for i in range(times) for pair in random.Random(i).sample(pairs, len(pairs))][:count]


def folder_of_the_model() -> str:
    from tunelift.models.sources import resolve

    return resolve(MODEL)[0].path


def first_adapter(model: str, folder: Path) -> None:
    """Save a fresh LoRA on all linear layers but the pooler's, made by stock peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    base = AutoModel.from_pretrained(model, dtype=torch.float32)
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    targets = [name for name in linear if "pooler" not in name]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, task_type="FEATURE_EXTRACTION")
    get_peft_model(base, config).save_pretrained(folder)


def show(kind: str, figures: Result) -> None:
    """Print the table, how fast ours is, and how what was learned differs, in points with its interval."""
    ours, table = figures["summary"]["settings"].get(train.OURS), []
    learned = {name: np.array(values) for name, values in figures["learned"].items()}
    for name, found in figures["summary"]["settings"].items():
        row = {"setting": name, "pairs/s": str(figures["settings"][name][0].get("failed"))[:60]}
        if found:
            row |= {"pairs/s": f"{found['rows'] / found['seconds']:.1f}", "1st loss": f"{found['losses'][0]:.4f}"}
            row |= {"last loss": f"{found['losses'][-1]:.4f}", "memory": f"{found['peak_bytes'] / 1e9:.1f} GB"}
            row |= {"we are": f"{found['seconds'] / ours['seconds']:.2f}x"} if ours else {}
        row |= {"learned": f"{100 * learned[name].mean():.2f}"} if name in learned else {}
        table.append(row)
    side_by_side.print_table(f"{kind}: {figures['pairs']} pairs a run", table)
    print(f"\nlearned, in points: {'ndcg@10' if kind == 'banking77' else 'Spearman'}, intervals over test and seeds")
    for name in learned if train.OURS in learned else ():
        if name != train.OURS:
            runs = min(len(learned[train.OURS]), len(learned[name])) if name != "base" else None
            apart = 100 * (learned[train.OURS][:runs] - learned[name][:runs])
            low, high = np.quantile(resampled(apart, items=kind == "banking77"), (0.025, 0.975))
            print(f"{train.OURS} - {name}: {apart.mean():+.2f} ({low:+.2f} to {high:+.2f})")


def resampled(values: np.ndarray[Any, Any], *, items: bool) -> list[float]:
    """Return means of resamples of runs and items (runs, N); columns may be resamples of items already."""
    draw, (runs, count) = np.random.default_rng(0), values.shape
    means = list[float]()
    for _ in range(1000):
        some = values[draw.integers(0, runs, runs)]
        means.append(float(some[:, draw.integers(0, count, count if items else 1)].mean()))
    return means


if __name__ == "__main__":
    main()
