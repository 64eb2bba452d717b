"""LoRA on a base that bitsandbytes holds in few bits: stock peft in a plain loop and tunelift, on the same rows.

    python benchmarks/quantized_speed.py [--quick] [--rows sst2,banking77] [--kinds nf4,int8] [--out FILE.json]

Gemma 3 270M, LoRA r=8 on all linear layers, batches of 8 rows, AdamW 2e-4, loss on completion and EOS. nf4 is made of
the wide weights by both, in the same way; int8 is a folder that transformers wrote with bitsandbytes' LLM.int8(). The
peer pads its batches as Trainer does, in float32 and in bfloat16, without the gradient checkpointing and the casts of
`prepare_model_for_kbit_training`, which would make it slower. Both run in the environment of tunelift, with its extra
`quantized`, in turns. Held-out losses are taken on the same quantised base.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import side_by_side
import train
from side_by_side import Result, Setting

PEER = "plain_loop.py"


def main() -> None:
    options = side_by_side.arguments(__doc__, add_options)
    figures: Result = side_by_side.facts() | {"kinds": {}}
    side_by_side.print_facts(figures)
    ways: dict[str, train.Way] = {
        train.OURS: ("ourselves.py", sys.executable, {}),
        "peft and bitsandbytes, fp32": (PEER, sys.executable, {}),
        "peft and bitsandbytes, bf16": (PEER, sys.executable, {"dtype": "bfloat16"}),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for kind in options.kinds.split(","):
            held = {"quantization": kind} if kind == "nf4" else {"base": eight_bits(options.model, Path(scratch))}
            for rows in options.rows.split(","):
                job = {"kind": rows, "model": options.model, "steps": options.steps or train.STEPS[rows]}
                job |= {"batch_size": 8, "held_out": train.HELD_OUT[rows], "learning_rate": 2e-4} | held
                job |= {"limit_seconds": 600.0}
                title = f"{rows} on {kind}"
                figures["kinds"][title] = found = train.trained(title, job, ways, options, rounds=3)
                print("fast paths:", found["settings"][train.OURS][0].get("fast_paths"))
                side_by_side.finish(options.out, figures)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", default="sst2,banking77", help=f"of {', '.join(train.STEPS)}")
    parser.add_argument("--kinds", default="nf4,int8", help="of nf4, int8")
    parser.add_argument("--model", default="gemma3-270m", help="model that all train")
    parser.add_argument("--steps", type=int, help="steps of each run")


def eight_bits(model: str, scratch: Path) -> str:
    """Write the model as bitsandbytes' LLM.int8() has it, once, and return its folder."""
    folder = scratch / "int8"
    if not folder.exists():
        job = {"model": model, "write": str(folder)}
        done = side_by_side.measure(Setting("base in eight bits", PEER, sys.executable, job), scratch)
        if "failed" in done:
            raise SystemExit(f"the base in eight bits: {done['failed']}")
    return str(folder)


if __name__ == "__main__":
    main()
