"""Labels from few rows: what an encoder is worth, tuned by tunelift, Trainer and SetFit, or not tuned at all.

    python benchmarks/labels.py [--quick] [--rows sst2,banking77] [--per-class 8,64] [--rounds 3] [--only NAME;NAME]
                                [--out FILE.json] [--work FOLDER --minutes 15]

all-MiniLM-L6-v2 on the same rows of each class, and accuracy on the same test rows. tunelift trains LoRA with a head,
and all weights; Trainer all weights; SetFit the sentence model on pairs (20 a row, as in its paper) and then a logistic
regression; the last one is such a regression on the sentence embeddings alone, as the linear probe in every report.
Each round draws rows and a seed of its own, alike for all. The seconds are of learning, the model loaded.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import side_by_side
from embeddings import MODEL, folder_of_the_model
from side_by_side import Result, Setting

TEST_ROWS = 400
EPOCHS = {8: 10, 64: 5}
"""Passes over the rows of those who train on them, by rows of a class."""

Rows = list[tuple[str, str]]
"""Text and label."""


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    peers = side_by_side.peers_python(options.peers_env)
    figures: Result = side_by_side.facts(peers) | {"kinds": {}}
    side_by_side.print_facts(figures)
    latest = side_by_side.deadline(options)
    with side_by_side.work_folder(options) as folder:
        for kind in options.rows.split(","):
            for count in [int(number) for number in options.per_class.split(",")]:
                title = f"{kind}, {count} a class"
                found = compared(kind, count, options, peers, folder, latest)
                figures["kinds"][title] = found
                side_by_side.print_table(title, [row_of(name, runs) for name, runs in found.items()])
                side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default="sst2", help="kinds of rows, separated by commas")
    parser.add_argument("--per-class", default="8,64", help="rows of each class to learn from, separated by commas")
    parser.add_argument("--only", default="", help="settings whose name holds one of these, separated by semicolons")


def settings_of(peers: str, job: dict[str, Any]) -> list[Setting]:
    ours, theirs = ("label_ourselves.py", sys.executable), ("label_peers.py", peers)
    return [
        Setting("tunelift, LoRA", *ours, job | {"method": "lora", "learning_rate": 1e-3}),
        Setting("tunelift, all weights", *ours, job | {"method": "full", "learning_rate": 5e-5}),
        Setting("Trainer, all weights", *theirs, job | {"way": "trainer", "learning_rate": 5e-5}),
        Setting("SetFit", *theirs, job | {"way": "setfit"}),
        Setting("sentence embeddings, logistic regression", *theirs, job | {"way": "regression"}),
    ]


def compared(kind: str, count: int, options: Any, peers: str, folder: Path, latest: float) -> dict[str, list[Result]]:
    """Learn in every way in turns, each round from rows of its own."""
    count, rounds = (2, 1) if options.quick else (count, options.rounds or 3)
    train, test = KINDS[kind](options.data)
    test = random.Random(0).sample(test, 20 if options.quick else TEST_ROWS)
    file = folder / f"{kind}-{count}.json"
    drawn = [few_of_each(train, count, number) for number in range(rounds)]
    labels = sorted({label for _, label in train})
    file.write_text(json.dumps({"model": folder_of_the_model(), "name": MODEL, "labels": labels, "train": drawn,
                                "test": test}), encoding="utf-8")  # fmt: skip
    job = {"rows": str(file), "batch_size": 16, "epochs": 1 if options.quick else EPOCHS.get(count, 5)}
    job |= {"pairs_a_row": 1 if options.quick else 20}
    settings = [one for one in settings_of(peers, job) if any(word in one.name for word in options.only.split(";"))]
    return side_by_side.in_turns(settings, rounds, folder, lambda *_: True, latest)


def few_of_each(rows: Rows, count: int, number: int) -> Rows:
    """Return so many rows of each label, mixed; another round's are others."""
    by_label: dict[str, Rows] = defaultdict(list)
    for row in rows:
        by_label[row[1]].append(row)
    draw = random.Random(number)
    some = [row for label in sorted(by_label) for row in draw.sample(by_label[label], min(count, len(by_label[label])))]
    return draw.sample(some, len(some))


def sst2(data: Path) -> tuple[Rows, Rows]:
    def read(split: str) -> Rows:
        lines = (data / f"sst2_{split}.tsv").read_text(encoding="utf-8").splitlines()
        return [(text, label) for label, text in (line.split("\t", 1) for line in lines)]

    return read("train"), read("test")


def banking77(data: Path) -> tuple[Rows, Rows]:
    def read(split: str) -> Rows:
        with (data / f"banking77_{split}.csv").open(encoding="utf-8", newline="") as lines:
            return [(row["text"], row["category"]) for row in csv.DictReader(lines)]

    return read("train"), read("test")


KINDS = {"sst2": sst2, "banking77": banking77}


def row_of(name: str, runs: list[Result]) -> dict[str, str]:
    if bad := next((run for run in runs if "failed" in run), None):
        return {"setting": name, "accuracy": str(bad["failed"])[:60]}
    accuracies = [run["accuracy"] for run in runs]
    return {
        "setting": name,
        "accuracy": f"{statistics.mean(accuracies):.3f}",
        "from - to": f"{min(accuracies):.3f} - {max(accuracies):.3f}",
        "seconds": f"{side_by_side.median(runs, 'seconds'):.1f}",
        "memory": f"{side_by_side.median(runs, 'peak_bytes') / 1e9:.1f} GB",
        "runs": str(len(runs)),
    }


if __name__ == "__main__":
    main()
