"""A second comparison, when the base is known already, beside the evaluation of one model.

    python benchmarks/known_base.py [--quick] [--rounds 3] [--out FILE.json]

Gemma 3 270M on all 2,225 BBC News topics with two adapters of a few steps. Comparing the first measures base and
adapter. Then the second is evaluated alone, and compared, each in a process of its own with the cache of scores as the
first comparison left it, in turns; wall-clock of whole processes.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import side_by_side
from startup import seconds

TEXTS = ["data.prompt=Headline: {headline}\nTopic:", "data.completion= {topic}"]
FIRST, ALONE, SECOND = "first comparison", "evaluation of one model", "second comparison"


def main() -> None:
    options = side_by_side.arguments(__doc__)
    figures = side_by_side.facts()
    side_by_side.print_facts(figures)
    items = 20 if options.quick else 2225
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        adapters = [trained(place, seed) for seed in (0, 1)]
        found: dict[str, list[float]] = {FIRST: [], ALONE: [], SECOND: []}
        found[FIRST].append(measured(place, "compare", adapters[0], items))
        scores = place / "cache" / "scores"
        shutil.copytree(scores, place / "known")
        for number in range(options.rounds or (1 if options.quick else 3)):
            ways = {ALONE: "evaluate", SECOND: "compare"}
            for name, command in list(ways.items())[:: 1 if number % 2 == 0 else -1]:
                shutil.rmtree(scores)
                shutil.copytree(place / "known", scores)
                found[name].append(measured(place, command, adapters[1], items))
    medians = {name: statistics.median(some) for name, some in found.items()}
    figures |= {"items": items, "seconds": found, "ratio": medians[SECOND] / medians[ALONE]}
    side_by_side.print_table(f"{items} items", [{"command": n, "median": f"{s:.1f} s"} for n, s in medians.items()])
    print(f"\nthe second comparison takes {figures['ratio']:.2f} of one evaluation")
    side_by_side.finish(options.out, figures)


def trained(place: Path, seed: int) -> Path:
    steps = ["train.steps=4", f"train.seed={seed}", "data.max_train=64", f"output={place}/tune-{seed}"]
    seconds([*tunelift(place, "tune"), *steps, *TEXTS])
    return place / f"tune-{seed}" / "adapter"


def measured(place: Path, command: str, adapter: Path, items: int) -> float:
    # A comparison's look at general text is work that an evaluation does not do.
    given = ["evaluate.forgetting=[]", f"data.max_test={items}", f"output={tempfile.mkdtemp(dir=place)}/out"]
    return seconds([*tunelift(place, command), "--adapter", str(adapter), *given, *TEXTS])


def tunelift(place: Path, command: str) -> list[str]:
    """Return a command of ours with a cache of its own in `place`."""
    cache = ["env", f"TUNELIFT_CACHE={place}/cache", f"TUNELIFT_STATE={place}/state"]
    return [*cache, sys.executable, "-m", "tunelift", command, "--model", "gemma3-270m", "--data", "bbc-news"]


if __name__ == "__main__":
    main()
