"""Answers side by side: transformers' generate, in one batch and in a row, and tunelift's engine on the same requests.

    python benchmarks/serve.py [--quick] [--model gemma3-270m] [--dtype float32] [--out FILE.json]
                               [--work FOLDER --minutes 15]

Sixteen requests of equal lengths, sixteen of ragged ones (prompts of 20 to 600 tokens, 16 to 256 new ones), one alone,
and the first token of a prompt of 1,000 tokens of which 950 are known. Each way is measured in turns in a process of
its own; the engine also with an adapter for each of the sixteen. Every token that was asked for counts, no other.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import side_by_side
from side_by_side import Result, Setting

OURS, MIXED, BATCH, ROW = "tunelift", "tunelift, 16 adapters", "generate, one batch", "generate, in a row"


def main() -> None:
    options = side_by_side.arguments(
        __doc__,
        lambda parser: parser.add_argument("--model", default="gemma3-270m", help="a model of transformers"),
        lambda parser: parser.add_argument("--dtype", default="float32", help="float32 or bfloat16"),
    )
    figures: Result = side_by_side.facts()
    side_by_side.print_facts(figures)
    kinds, job = requests(8 if options.quick else 1), {"model": options.model, "dtype": options.dtype}
    job["beginning"] = [250, 200] if options.quick else [1000, 950]
    equal = {"equal lengths": kinds["equal lengths"]}
    settings = [
        Setting(OURS, "answering.py", sys.executable, job | {"kinds": kinds, "way": "tunelift"}),
        Setting(BATCH, "answering.py", sys.executable, job | {"kinds": kinds, "way": "generate"}),
        Setting(ROW, "answering.py", sys.executable, job | {"kinds": equal, "way": "in a row"}),
        Setting(MIXED, "answering.py", sys.executable, job | {"kinds": equal, "way": "tunelift", "adapters": 16}),
    ]
    rounds = options.rounds or (1 if options.quick else 3)
    latest = side_by_side.deadline(options)
    with side_by_side.work_folder(options) as folder:
        figures["runs"] = side_by_side.in_turns(settings, rounds, folder, lambda *_: True, latest)
    figures["kinds"] = kinds
    figures["ratios"] = ratios(figures["runs"])
    for line in failures(figures["runs"]):
        print(line)
    for name, ratio in figures["ratios"].items():
        print(f"{name:50}  {ratio:.2f}")
    side_by_side.finish(options.out, figures)


def requests(divided_by: int) -> dict[str, list[tuple[int, int]]]:
    """Return the requests of each kind: tokens of the prompt, and new ones."""
    own = random.Random(0)
    ragged = [(own.randint(20, 600), own.randint(16, 256)) for _ in range(16)]
    kinds = {"equal lengths": [(128, 64)] * 16, "ragged lengths": ragged, "one alone": [(128, 64)]}
    return {
        kind: [(max(4, length // divided_by), max(2, new // divided_by)) for length, new in some]
        for kind, some in kinds.items()
    }


def ratios(runs: dict[str, list[Result]]) -> dict[str, float]:
    """Return how many times faster the engine is than each peer, and its speed with adapters to that of the base."""
    pairs: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
        "equal lengths, to one batch": ((BATCH, "equal lengths"), (OURS, "equal lengths")),
        "equal lengths, to calls in a row": ((ROW, "equal lengths"), (OURS, "equal lengths")),
        "ragged lengths, to one batch": ((BATCH, "ragged lengths"), (OURS, "ragged lengths")),
        "one alone, to generate": ((BATCH, "one alone"), (OURS, "one alone")),
        "first token of a known beginning, to generate": ((BATCH, "first token"), (OURS, "first token")),
        "sixteen adapters, to the base": ((OURS, "equal lengths"), (MIXED, "equal lengths")),
    }
    found = {name: (seconds(runs, *theirs), seconds(runs, *own)) for name, (theirs, own) in pairs.items()}
    return {name: theirs / own for name, (theirs, own) in found.items() if theirs and own}


def seconds(runs: dict[str, list[Result]], setting: str, kind: str) -> float | None:
    own: list[Any] = [run["kinds"][kind] for run in runs.get(setting, []) if "kinds" in run]
    return side_by_side.median(own, "seconds") if own else None


def failures(runs: dict[str, list[Result]]) -> list[str]:
    return [f"{name}: {run['failed']}" for name, some in runs.items() for run in some if "failed" in run]


if __name__ == "__main__":
    main()
