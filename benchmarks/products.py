"""Frozen products in int8 beside those of the model's own precision, in turns, each in a process of its own.

    python benchmarks/products.py [--rounds 7] [--steps 60] [--rows sst2,gsm8k] [--dtype float32] [--out FILE.json]

Rows and settings are those of train.py. Every round gives two ratios, the plain products' seconds over those of int8:
of the whole process, with loading, the trial of int8 and the packing of weights, and of its median step. Held-out
losses (nats per target) are of 400 rows, computed by stock transformers and peft.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import side_by_side
from before import compared, show, training_seconds
from score import MODEL
from side_by_side import Result, Setting


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    figures: Result = side_by_side.facts() | {"kinds": {}}
    side_by_side.print_facts(figures)
    rounds = options.rounds or (1 if options.quick else 7)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in filter(None, options.rows.split(",")):
            job = {"kind": kind, "model": MODEL, "steps": 2 if options.quick else options.steps, "batch_size": 8}
            job |= {"held_out": 8 if options.quick else 400, "learning_rate": 2e-4, "limit_seconds": 3600.0}
            job |= {"folder": scratch, "data": str(options.data.resolve()), "dtype": options.dtype}
            job |= {"rows": f"{scratch}/rows.json"}
            side_by_side.measure(Setting("rows and first adapter", "prepare.py", sys.executable, job), folder)
            ways = ("int8", options.dtype)
            each = {products: job | {"products": products, "out": f"{scratch}/{products}"} for products in ways}
            settings = [Setting(products, "ourselves.py", sys.executable, own) for products, own in each.items()]
            runs = side_by_side.in_turns(settings, rounds, folder, lambda *_: True)
            figures["kinds"][f"{kind}, whole process"] = compared(runs, whole_seconds)
            figures["kinds"][f"{kind}, median step"] = compared(runs, median_seconds)
            adapters = {products: f"{scratch}/{products}" for products in ways}
            losses = side_by_side.measure(
                Setting("held-out losses", "held_out.py", sys.executable, job | {"adapters": adapters}), folder
            )["losses"]
            figures["kinds"][f"{kind}, median step"] |= {"losses": losses}
            print(f"{kind}: held-out {losses}; int8 {runs['int8'][0]['fast_paths']['int8_products']}")
    show(figures["kinds"])
    side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default="sst2,gsm8k", help="kinds of rows to train on, separated by commas")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training run")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="precision of the model")


def whole_seconds(run: Result) -> float:
    return float(run["startup_seconds"]) + training_seconds(run)


def median_seconds(run: Result) -> float:
    return statistics.median(step["seconds"] for step in run["steps"][1:])


if __name__ == "__main__":
    main()
