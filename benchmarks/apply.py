"""One line in front of a stock Trainer: the same training with and without `tunelift.fast.apply(model)`.

    python benchmarks/apply.py [--quick] [--rows sst2] [--steps 6] [--out FILE.json]

Gemma 3 270M with LoRA, transformers' Trainer in fp32, padded, batches of 8. Both run in the environment of tunelift;
the one with our paths bears our name in the table.
"""

from __future__ import annotations

import sys

import side_by_side
import train


def main() -> None:
    options = side_by_side.arguments(__doc__, train.add_options)
    kind = "sst2" if "," in options.rows else options.rows
    figures = side_by_side.facts()
    side_by_side.print_facts(figures)
    job = {"kind": kind, "model": "gemma3-270m", "steps": options.steps or train.STEPS[kind], "batch_size": 8}
    job |= {"held_out": train.HELD_OUT[kind], "learning_rate": 2e-4, "limit_seconds": 600.0}
    ways: dict[str, train.Way] = {
        "Trainer": ("trainer.py", sys.executable, {}),
        train.OURS: ("trainer.py", sys.executable, {"apply": True}),
    }
    figures |= train.trained(f"{kind}: Trainer with fast.apply and without", job, ways, options, rounds=3)
    print("fast paths:", figures["settings"][train.OURS][0].get("fast_paths"))
    side_by_side.finish(options.out, figures)


if __name__ == "__main__":
    main()
