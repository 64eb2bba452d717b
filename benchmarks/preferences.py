"""Preference tuning side by side: TRL's DPOTrainer and tunelift on the same pairs from the same initial adapter.

    python benchmarks/preferences.py [--quick] [--steps 4] [--prompt-tokens 300] [--out FILE.json]
                                     [--work FOLDER --minutes 15]

Gemma 3 270M, LoRA r=8 on all linear layers, DPO with beta 0.1, 4 pairs a step, prompts of 300 tokens with an answer to
GSM8K and another one's. The seconds are of all that comes once the model is loaded: reading the rows, the reference,
what is tried first, and the steps. Losses of the first step show that both compute the same.
"""

from __future__ import annotations

import argparse
import sys

import side_by_side
from side_by_side import Result, Setting

OURS = "tunelift"
PLAIN = {"gradient_checkpointing": False, "bf16": False}
PEERS: dict[str, Result] = {
    "TRL, defaults": {"trl": {}},
    "TRL fp32, no checkpointing": {"trl": PLAIN},
    "TRL fp32, no checkpointing, reference first": {"trl": PLAIN | {"precompute_ref_log_probs": True}},
    "TRL bf16 weights, no checkpointing": {"trl": {"gradient_checkpointing": False}, "dtype": "bfloat16"},
}


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    peers = side_by_side.peers_python(options.peers_env)
    figures = side_by_side.facts(peers)
    side_by_side.print_facts(figures)
    job: Result = {"model": options.model, "steps": options.steps or (1 if options.quick else 4), "beta": 0.1}
    job |= {"batch_size": 2 if options.quick else 4, "learning_rate": 5e-5, "prompt_tokens": options.prompt_tokens}
    latest = side_by_side.deadline(options)
    with side_by_side.work_folder(options) as folder:
        job |= {"data": str(options.data.resolve()), "folder": str(folder), "rows": f"{folder}/rows.json"}
        prepare = Setting("rows and first adapter", "pairs.py", sys.executable, job | {"role": "prepare"})
        rows = side_by_side.once(prepare, folder)
        settings = [Setting(OURS, "pairs.py", sys.executable, job | {"role": "ours"})]
        settings += [Setting(name, "pairs.py", peers, job | extra | {"role": "trl"}) for name, extra in PEERS.items()]
        settings = [one for one in settings if any(word in one.name for word in options.only.split(";"))]
        rounds = options.rounds or (1 if options.quick else 3)
        results = side_by_side.in_turns(settings, rounds, folder, lambda *_: True, latest)
    figures |= {"rows": rows, "job": job, "settings": results}
    show(figures)
    side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, help="steps of each run")
    parser.add_argument("--prompt-tokens", type=int, default=300, help="tokens of each prompt")
    parser.add_argument("--model", default="gemma3-270m", help="model that all train")
    parser.add_argument("--only", default="", help="settings whose name holds one of these, separated by semicolons")


def show(figures: Result) -> None:
    results = figures["settings"]
    ours = {name: side_by_side.median(results.get(OURS, []), name) for name in ("seconds", "peak_bytes")}
    table = []
    for name, runs in results.items():
        seconds, memory = (side_by_side.median(runs, key) for key in ("seconds", "peak_bytes"))
        if seconds is None or memory is None:
            table.append({"setting": name, "pairs/s": str(runs[0].get("failed"))[:60]})
            continue
        row = {"setting": name, "pairs/s": f"{runs[0]['pairs'] / seconds:.3f}", "memory": f"{memory / 1e9:.2f} GB"}
        row["first loss"] = f"{runs[0]['losses'][0]:.6f}"
        if ours["seconds"] and ours["peak_bytes"] and name != OURS:
            row |= {"we are": f"{seconds / ours['seconds']:.2f}x", "in": f"{ours['peak_bytes'] / memory:.2f} of memory"}
        table.append(row)
    side_by_side.print_table(f"{figures['rows'].get('rows')} pairs", table)


if __name__ == "__main__":
    main()
