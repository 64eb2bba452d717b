"""What many runs cost beside what each must do for itself, and what the scheduling of a job costs.

    python benchmarks/many_runs.py [--model NAME] [--runs 12] [--jobs 200] [--on local ray] [--quick] [--out FILE.json]

Runs: Gemma 3 270M that names the topics of bundled BBC News, or all-MiniLM-L6-v2 as their classifier, one run after
another with another learning rate each, every one a process of its own, from an empty store of stages and scores. The
wall-clock of all is compared with the sum of what each must do: its training and the evaluation of what it tuned, as
their manifests say. The first run, which makes what the others take, is in it. tunelift lies there compiled, as pip
leaves it: else each process would do that again where Python is told to write no bytecode.

Jobs: commands that do nothing, by what `tunelift sweep` schedules with, here and on a Ray cluster of two workers that
this script starts and ends (with the extra ray). The figure is wall-clock per job, beyond what the same calls take.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import side_by_side
from startup import seconds

import tunelift
from tunelift.scale import jobs
from tunelift.scale.jobs import Job, run_jobs

MOST_RATIO, MOST_SECONDS = 1.15, 0.05
MODELS = {
    "gemma3-270m": [
        *("--prompt", "Which topic is this headline about? {headline}\nTopic:", "--completion", " {topic}"),
        *("data.test=0.2", "data.max_train=400", "data.max_validation=50", "data.max_test=200"),
    ],
    "all-minilm-l6-v2": [
        *("--task", "sequence-classification", "--text", "headline", "--label", "topic", "train.epochs=6"),
    ],
}
"""What is tuned, and what its runs have in common."""


def main() -> None:
    options = side_by_side.arguments(__doc__, _runs, _jobs, _where)
    figures = side_by_side.facts()
    side_by_side.print_facts(figures)
    with tempfile.TemporaryDirectory() as scratch:
        count = min(2, options.runs) if options.quick else options.runs
        runs = shared_runs(Path(scratch), options.model, count, quick=options.quick) if count else None
        figures["runs"] = runs
        count = min(10, options.jobs) if options.quick else options.jobs
        figures["jobs"] = {where: scheduled(Path(scratch), where, count) for where in options.on} if count else None
    if found := figures["runs"]:
        table = [{"": name, "seconds": f"{found[name]:.1f}"} for name in ("all", "training", "tuned evaluation")]
        side_by_side.print_table(f"{found['count']} runs of {found['model']} that share base and test set", table)
        print(
            f"\nall of them take {found['ratio']:.2f} of their trainings and tuned evaluations (at most {MOST_RATIO})"
        )
        print(f"taken from another run: {found['taken']} of {found['stages']} stages")
    for where, per_job in (figures["jobs"] or {}).items():
        print(f"scheduling on {where}: {1000 * per_job:.1f} ms a job (at most {1000 * MOST_SECONDS:.0f})")
    side_by_side.finish(options.out, figures)


def shared_runs(scratch: Path, model: str, count: int, *, quick: bool) -> dict[str, Any]:
    """Return the seconds of all runs, and those of their trainings and tuned evaluations."""
    store = ["env", f"TUNELIFT_CACHE={scratch / 'cache'}", f"TUNELIFT_STATE={scratch / 'state'}"]
    fewer = ["data.max_train=40", "data.max_test=40"] if quick else []
    compileall.compile_dir(Path(tunelift.__file__).parent, quiet=1)
    wall, own, taken, stages = 0.0, {"train": 0.0, "tuned": 0.0}, 0, 0
    for number in range(count):
        output = scratch / f"run-{number}"
        given = [f"train.learning_rate={(1 + number) * 1e-4:g}", f"output={output}", *MODELS[model], *fewer]
        run = [sys.executable, "-m", "tunelift", "run", "--model", model, "--data", "bbc-news", *given]
        wall += seconds([*store, *run])
        manifest = json.loads((output / "manifest.json").read_text())
        own = {stage: own[stage] + manifest["seconds"].get(stage, 0.0) for stage in own}
        taken += sum(stage["from"].startswith(str(scratch)) for stage in manifest["stages"].values())
        stages += len(manifest["stages"])
    needed = sum(own.values())
    return {
        "model": model, "count": count, "all": wall, "training": own["train"], "tuned evaluation": own["tuned"],
        "ratio": wall / needed, "taken": taken, "stages": stages,
    }  # fmt: skip


def scheduled(scratch: Path, where: str, count: int) -> float:
    """Return the seconds a job of scheduling: jobs that do nothing, two at a time."""
    some = [Job(str(number), [], scratch / f"{number}.log") for number in range(count)]
    work, jobs.work = jobs.work, nothing
    try:
        with cluster(where):
            run_jobs(some[:2], where, 2, lambda job, code: None)  # its workers begin
            began = time.perf_counter()
            run_jobs(some, where, 2, lambda job, code: None)
            return (time.perf_counter() - began) / count
    finally:
        jobs.work = work


def nothing(arguments: Sequence[str], log: str, threads: int, folder: str) -> int:
    return 0


@contextmanager
def cluster(where: str) -> Iterator[None]:
    """Start Ray in this process for a while, with two workers, where that is asked for."""
    if where != "ray":
        yield
        return
    import ray

    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=MODELS, default="gemma3-270m", help="what is tuned")
    parser.add_argument("--runs", type=int, default=12, help="runs that share base and test set; 0 for none")


def _jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=200, help="jobs that do nothing; 0 for none")


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on", nargs="*", default=["local"], choices=["local", "ray"], help="where jobs are scheduled")


if __name__ == "__main__":
    main()
