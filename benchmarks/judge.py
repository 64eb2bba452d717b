"""Are a judge's corrected scores right as often as they say? Simulated judges whose bias is known.

    python benchmarks/judge.py [--simulations 20000] [--only TEXT] [--json FILE]

A person's labels are drawn, and a judge who says the same with some chance and else follows its biases: for the answer
that stands first, for the longer one. The worst follows them always; of marks it is generous to what is long, and
slips. Some items are labelled, and the product's interval is made of these labels and the judge's scores of all. The
judge's own interval, and that of the labels alone, stand beside. Exits with 1 where the corrected interval holds the
truth less than 94 times of 100.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.corrected import FEWEST_LABELS, corrected

Floats = NDArray[np.float64]
LEVEL, LIMIT = 0.95, 94.0
FIRST, LONGER, LONG = 0.3, 0.5, 0.6
"""Where the judge does not say what the person does: how often it takes the first answer whatever it says, and else the
longer one; and how often the tuned answer is the longer."""
WINS = {"even": (0.5, 0.0), "even, ties": (0.45, 0.1), "better": (0.75, 0.0), "far better": (0.9, 0.05)}
JUDGES = {"worst": 0.0, "poor": 0.5, "good": 0.9, "nearly right": 0.97}
CLUSTERED = ((20, 60), (50, 10), (50, 60), (100, 20), (100, 150))
"""Labels, and clusters of 300 items."""
STEP = 0.25
"""Between two marks of five."""


@dataclass(frozen=True)
class Cell:
    """What one kind of judge did, in percent: how often an interval held the truth; and the intervals' mean widths."""

    name: str
    covered: float
    labels_alone: float
    judge_alone: float
    width: float
    labels_width: float
    bias: float


def cells(simulations: int, only: str) -> Iterator[Cell]:
    """Yield every kind of judge, labels and items; each has its own fixed seed."""
    for what, labelled, others in product(("wins", "marks"), (FEWEST_LABELS, 50, 100), (100, 1000)):
        for (true, won), (judge, agrees) in product(WINS.items(), JUDGES.items()):
            name = f"{what}, {labelled} labels, {others} others, {true}, {judge} judge"
            if only in name:
                yield cell(name, simulations, (labelled, others), won, agrees, graded=what == "marks")
    for (labelled, clusters), (judge, agrees) in product(CLUSTERED, JUDGES.items()):
        name = f"wins, {labelled} labels of 300 items in {clusters} clusters, {judge} judge"
        if only in name:
            yield cell(name, simulations, (labelled, 300 - labelled), WINS["even"], agrees, clusters=clusters)


def cell(
    name: str,
    simulations: int,
    sizes: tuple[int, int],
    won: tuple[float, float],
    agrees: float,
    *,
    graded: bool = False,
    clusters: int = 0,
) -> Cell:
    """Judge simulated comparisons by the product's interval. With clusters half of the items say as theirs does."""
    draws, (labelled, others) = np.random.default_rng(zlib.crc32(name.encode())), sizes
    found = []
    for start in range(0, simulations, 1000):
        shape = min(1000, simulations - start), labelled + others
        member = draws.integers(0, clusters, labelled + others) if clusters else None
        labels, judged, truth = marks(draws, shape, won, agrees) if graded else wins(draws, shape, won, agrees, member)
        scale, step = ((-1.0, 1.0), STEP) if graded else ((0.0, 1.0), None)
        parts = labels[:, :labelled], judged[:, :labelled], judged[:, labelled:]
        none = np.empty((shape[0], 0))
        for used in (parts, (parts[0], parts[1], none), (judged, judged, none)):
            of_these = None if member is None else member[: used[0].shape[1] + used[2].shape[1]]
            interval = corrected(*used, scale, LEVEL, step, clusters=of_these)
            held = (interval.low <= truth) & (truth <= interval.high)
            found.append((held.mean(), (interval.high - interval.low).mean(), judged.mean() - truth))
    whole, alone, own = (np.mean(found[number::3], axis=0) for number in range(3))
    share = [round(100 * float(value[0]), 2) for value in (whole, alone, own)]
    return Cell(name, *share, *(round(float(value), 4) for value in (whole[1], alone[1], whole[2])))


def wins(
    draws: np.random.Generator,
    shape: tuple[int, int],
    won: tuple[float, float],
    agrees: float,
    member: NDArray[np.intp] | None = None,
) -> tuple[Floats, Floats, float]:
    """Return labels of pairs (1 tuned wins, 0.5 tie, 0), the judge's mean over both orders, and the true mean."""
    drawn = draws.random(shape)
    if member is not None:
        of_clusters = draws.random((shape[0], member.max() + 1))[:, member]
        drawn = np.where(draws.random(shape) < 0.5, of_clusters, drawn)
    labels = np.where(drawn < won[0], 1.0, np.where(drawn < sum(won), 0.5, 0.0))
    longer, votes = draws.random(shape) < LONG, []
    for tuned_first in (1.0, 0.0):
        other = np.where(draws.random(shape) < LONGER, longer, draws.random(shape) < 0.5)
        other = np.where(draws.random(shape) < FIRST, tuned_first, other)
        votes.append(np.where(draws.random(shape) < agrees, labels, other))
    return labels, np.mean(votes, axis=0), won[0] + won[1] / 2


def marks(
    draws: np.random.Generator, shape: tuple[int, int], won: tuple[float, float], agrees: float
) -> tuple[Floats, Floats, float]:
    """Return differences of two marks of five, by the person and by a judge who is generous to long answers."""
    better = won[0] + won[1] / 2 - 0.5
    steps, chances = np.array([-1, 0, 1, 4]), np.array([0.25 - better / 2, 0.45, 0.25 + better / 2, 0.05])
    base = draws.integers(0, 5, shape)
    tuned = np.clip(base + draws.choice(steps, p=chances, size=shape), 0, 4)
    slip = draws.choice([-1, 0, 1], p=[0.2, 0.4, 0.4], size=shape) * (draws.random(shape) >= agrees)
    judged = np.clip(tuned + slip + (draws.random(shape) < LONG) * (draws.random(shape) >= agrees), 0, 4)
    levels = np.arange(5)[:, None]
    truth = float(np.mean((np.clip(levels + steps, 0, 4) - levels) @ chances))
    return (tuned - base) / 4, (judged - base) / 4, truth / 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--only", default="", help="cells whose names hold this text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("| simulated | judge's bias | corrected holds | width | labels alone hold | width | the judge alone holds |")
    print("|---|---|---|---|---|---|---|")
    found = []
    for one in cells(options.simulations, options.only):
        found.append(one)
        print(
            f"| {one.name} | {one.bias:+.3f} | {one.covered:.1f} | {one.width:.3f} | {one.labels_alone:.1f} | "
            f"{one.labels_width:.3f} | {one.judge_alone:.1f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2), encoding="utf-8")
    least = min(found, key=lambda one: one.covered)
    print(f"\nThe least of {len(found)}: {least.covered:.2f} of 100 ({least.name}).")
    sys.exit(least.covered < LIMIT)


if __name__ == "__main__":
    main()
