"""Classification side by side: MiniLM with a head and LoRA on SST-2, transformers' Trainer and tunelift.

    python benchmarks/classify.py [--quick] [--steps 50] [--out FILE.json]

The same rows in the same order from the same initial adapter and head; batches of 16, AdamW 1e-3, the model's dropout.
"""

from __future__ import annotations

import sys

import side_by_side
import train


def main() -> None:
    options = side_by_side.arguments(
        __doc__, lambda parser: parser.add_argument("--steps", type=int, help="steps of each run")
    )
    peers = side_by_side.peers_python(options.peers_env)
    figures = side_by_side.facts(peers)
    side_by_side.print_facts(figures)
    job = {"kind": "sst2-head", "model": "all-minilm-l6-v2", "head": True, "steps": options.steps or 50}
    job |= {"batch_size": 16, "held_out": 400, "learning_rate": 1e-3, "limit_seconds": 600.0}
    ways: dict[str, train.Way] = {
        train.OURS: ("ourselves.py", sys.executable, {}),
        "Trainer, padded": ("trainer.py", peers, {}),
        "Trainer, grouped": ("trainer.py", peers, train.GROUPED),
    }
    figures |= train.trained("MiniLM with a head on SST-2", job, ways, options, rounds=5)
    side_by_side.finish(options.out, figures)


if __name__ == "__main__":
    main()
