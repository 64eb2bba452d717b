"""Does replay help against forgetting, and what does it cost? Two real runs, each without it and with it.

    python benchmarks/replay.py DATA_FOLDER [--replay 0.2] [--only banking77] [--work runs/replay] [--minutes 15]

DATA_FOLDER holds the public files that RUNS names. Each is one `tunelift run` with the same rows, seed and settings but
for `train.replay`; the models tuned with and without are compared on the general text that was not trained on, and on
the task's own test items, item by item. What is done in the folder stays: the same command goes on, runs that were cut
off included. Exits with 1 where replay is not shown to make forgetting smaller that was there without it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tunelift.comparison import compare
from tunelift.core import files, machine
from tunelift.run_files.layout import RunPaths

FORGOTTEN = "general-text"
RUNS: dict[str, dict[str, Any]] = {
    # Customer questions to a bank, 77 intents (PolyAI, task-specific-datasets).
    "banking77": {
        "data": {
            **{"train": "banking77_train.csv", "test": "banking77_test.csv", "max_train": 400, "max_validation": 20},
            **{"max_test": 200, "prompt": "Message: {text}\nIntent:", "completion": " {category}"},
        },
        "train": {"epochs": 2, "learning_rate": 1e-3},
    },
    # Film-review sentences, negative or positive (Stanford Sentiment Treebank, binary).
    "sst2": {
        "data": {
            **{"train": "sst2_train.tsv", "test": "sst2_test.tsv", "columns": ["label", "text"], "max_train": 400},
            **{"max_validation": 20, "max_test": 200, "prompt": "Review: {text}\nSentiment:", "completion": " {label}"},
        },
        "train": {"epochs": 2, "learning_rate": 1e-3},
    },
}


def run(name: str, replay: float, options: argparse.Namespace) -> RunPaths:
    """Make one run, or go on with it, in a process of its own; return where it lies."""
    folder = options.work / f"{name}-{replay:g}"
    if files.read_object(RunPaths(folder).manifest).get("status") == "complete":
        return RunPaths(folder)
    settings = RUNS[name]
    data = settings["data"] | {key: str((options.data / settings["data"][key]).resolve()) for key in ("train", "test")}
    config = {
        **{"model": {"name": options.model, "dtype": "float32"}, "data": data, "output": str(folder)},
        "train": settings["train"] | {"replay": replay},
        "evaluate": {"metrics": ["accuracy"], "baselines": [], "forgetting": [FORGOTTEN]},
    }
    path = options.work / f"{name}-{replay:g}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tunelift", "run", str(path)], check=True, stdout=subprocess.DEVNULL)
    return RunPaths(folder)


def row(name: str, without: RunPaths, replayed: RunPaths) -> tuple[list[str], bool]:
    """Return a line of the table, and whether forgetting that was there became smaller."""
    forgotten = files.read_object(without.comparison)["forgetting"]
    if FORGOTTEN not in forgotten:
        sys.exit(f"{name}: forgetting was not measured: {FORGOTTEN} is longer than the model's context.")
    lost = forgotten[FORGOTTEN]
    kept = compare(without.forgetting(FORGOTTEN).tuned, replayed.forgetting(FORGOTTEN).tuned).to_dict()
    task = compare(without.tuned, replayed.tuned).to_dict()
    smaller, cost = (one["metrics"][one["headline"]["metric"]] for one in (kept, task))
    cells = [name, f"{lost['difference']:+.3f} ({lost['verdict']})", shown(smaller), shown(cost)]
    return cells, lost["verdict"] != "worse" or smaller["verdict"] == "better"


def shown(entry: dict[str, Any]) -> str:
    ends = entry["interval"]
    extent = "no interval" if ends is None else f"{ends[0]:+.3f} to {ends[1]:+.3f}"
    return f"{entry['difference']:+.3f} ({extent}), {entry['verdict']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--replay", type=float, default=0.2, help="rows of replay for each training row")
    parser.add_argument("--only", default="", help="runs whose names hold this text")
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--work", type=Path, default=Path("runs/replay"), help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    latest, held = time.monotonic() + 60 * options.minutes, True
    print(f"{machine.described()['processor']}; replay {options.replay:g}\n")
    print("| run | forgetting without replay (bits per byte) | replay changes it by | and accuracy by |")
    print("|---|---|---|---|")
    for name in (name for name in RUNS if options.only in name):
        made = list[RunPaths]()
        for replay in (0.0, options.replay):
            if time.monotonic() > latest:
                sys.exit("The time is over; the same command goes on.")
            made.append(run(name, replay, options))
        cells, right = row(name, *made)
        held = held and right
        print(f"| {' | '.join(cells)} |", flush=True)
    sys.exit(not held)


if __name__ == "__main__":
    main()
