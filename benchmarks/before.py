"""Training and scoring side by side with an earlier build of tunelift, in turns, each in a process of its own.

    git worktree add ../before COMMIT
    python benchmarks/before.py ../before [--rounds 7] [--steps 60] [--rows sst2,banking77] [--out FILE.json]

The rows and settings are those of train.py and score.py, and each build runs its own scripts. Every round gives one
ratio, the earlier build's seconds over this one's: above 1, this build is faster. The interval is Student's over the
logarithms of the ratios.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import side_by_side
from scipy.stats import t as student
from score import MODEL, all_items
from side_by_side import Result, Setting

NOW, BEFORE = "this build", "earlier build"


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    builds = {NOW: side_by_side.HERE.parent, BEFORE: options.before.resolve()}
    figures: Result = side_by_side.facts() | {"kinds": {}}
    side_by_side.print_facts(figures)
    rounds = options.rounds or (1 if options.quick else 7)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind in filter(None, options.rows.split(",")):
            job = {"kind": kind, "model": MODEL, "steps": 2 if options.quick else options.steps, "batch_size": 8}
            job |= {"held_out": 1, "learning_rate": 2e-4, "limit_seconds": 3600.0, "folder": scratch}
            job |= {"data": str(options.data.resolve()), "rows": f"{scratch}/rows.json", "out": f"{scratch}/adapter"}
            side_by_side.measure(Setting("rows and first adapter", "prepare.py", sys.executable, job), folder)
            settings = [build_setting(name, at, "ourselves.py", job) for name, at in builds.items()]
            runs = side_by_side.in_turns(settings, rounds, folder, lambda *_: True)
            figures["kinds"][f"train {kind}"] = compared(runs, training_seconds)
        job = {"name": MODEL, "dtype": "auto", "kinds": all_items(options.data, 64 if options.quick else 1)}
        settings = [build_setting(name, at, "our_scores.py", job) for name, at in builds.items()]
        runs = side_by_side.in_turns(settings, rounds if options.score else 0, folder, lambda *_: True)
        figures["kinds"] |= {"score": compared(runs, scoring_seconds)} if options.score else {}
    show(figures["kinds"])
    side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path, help="checkout of the earlier build")
    parser.add_argument("--rows", default="sst2,banking77", help="kinds of rows to train on, separated by commas")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training run")
    parser.add_argument("--no-score", dest="score", action="store_false", help="leave scoring out")


def build_setting(name: str, checkout: Path, script: str, job: Mapping[str, object]) -> Setting:
    """Return a setting that runs a build's own script on its own code."""
    own = str(checkout / "benchmarks" / "peers" / script)
    return Setting(name, own, sys.executable, dict(job), {"PYTHONPATH": str(checkout / "src")})


def training_seconds(run: Result) -> float:
    """Return the seconds of all steps of a run, its start-up before the first step with them."""
    return float(sum(step["seconds"] for step in run["steps"]))


def scoring_seconds(run: Result) -> float:
    return float(sum(kind["ours"]["seconds"] for kind in run["kinds"].values()))


def compared(runs: Mapping[str, Sequence[Result]], seconds: Callable[[Result], float]) -> Result:
    """Return the seconds by round of two settings, the second's over the first's (geometric mean) and its interval."""
    taken = {name: [seconds(run) for run in some] for name, some in runs.items()}
    logs = [math.log(before / now) for now, before in zip(*taken.values(), strict=True)]
    mean, count = sum(logs) / len(logs), len(logs)
    half = math.inf
    if count > 1:
        variance = sum((value - mean) ** 2 for value in logs) / (count - 1)
        half = float(student.ppf(0.975, count - 1)) * math.sqrt(variance / count)
    interval = [math.exp(mean - half), math.exp(mean + half)]
    return {"seconds": taken, "ratio": math.exp(mean), "interval": interval}


def show(kinds: Mapping[str, Result]) -> None:
    table = [
        {"work": kind}
        | {name: f"{sum(some) / len(some):.2f} s" for name, some in reversed(found["seconds"].items())}
        | {
            "ratio": f"{found['ratio']:.3f}",
            "95%": "{:.3f} to {:.3f}".format(*found["interval"]),
            "rounds": str(min(map(len, found["seconds"].values()))),
        }
        for kind, found in kinds.items()
    ]
    side_by_side.print_table("The first column's seconds over the second's", table)


if __name__ == "__main__":
    main()
