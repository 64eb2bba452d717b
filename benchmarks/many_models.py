"""How often does a table of equal models name one as better, and how often is a better one found?

    python benchmarks/many_models.py [--simulations 20000] [--models 20] [--items 100]

Draws tables of items by models whose items are correlated, compares every pair by the paired t test, and corrects p
over all pairs: by the product's step-down maximum, and by Holm for comparison. Exits with 1 where more than 5.5% of
the tables of equal models call any pair different.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tunelift.comparison.paired_tests import holm
from tunelift.comparison.simultaneous import step_down

MOST = 0.055
SHARED = 0.8  # of an item's spread, what all models have in common


def tables(models: int, items: int, shift: float, right_wrong: bool) -> Callable[[], NDArray[np.float64]]:
    """Return a source of tables (items, models) whose first model is better by `shift` of an item's own spread."""
    source = np.random.default_rng(20_260_401)

    def draw() -> NDArray[np.float64]:
        common = SHARED * source.standard_normal((items, 1))
        table = common + np.sqrt(1 - SHARED**2) * source.standard_normal((items, models))
        table[:, 0] += shift
        return (table > 0).astype(float) if right_wrong else table

    return draw


def shares(draw: Callable[[], NDArray[np.float64]], simulations: int) -> dict[str, tuple[float, float]]:
    """Return by correction: tables with any pair called different, and pairs of the first model called so."""
    pairs = list(combinations(range(draw().shape[1]), 2))
    first = np.array([one == 0 for one, _ in pairs])
    found = {"step-down": np.zeros(2), "Holm": np.zeros(2)}
    for _ in range(simulations):
        table = draw()
        differences = np.stack([table[:, other] - table[:, one] for one, other in pairs], axis=1)
        error = differences.std(axis=0, ddof=1) / np.sqrt(len(table))
        p = 2 * stats.t.sf(np.abs(differences.mean(axis=0)) / np.where(error > 0, error, np.inf), len(table) - 1)
        for name, corrected in (("step-down", step_down(p.tolist(), differences)), ("Holm", holm(p.tolist()))):
            called = np.array(corrected) < 0.05
            found[name] += (called.any(), called[first].mean())
    return {name: (count[0] / simulations, count[1] / simulations) for name, count in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--items", type=int, default=100)
    given = parser.parse_args()
    wrong = 0
    print("| values | tables of equal models that name one, step-down | Holm | pairs of a better one found | Holm |")
    print("|---|---|---|---|---|")
    for name, right_wrong in (("graded", False), ("right/wrong", True)):
        equal = shares(tables(given.models, given.items, 0.0, right_wrong), given.simulations)
        better = shares(tables(given.models, given.items, 0.35, right_wrong), max(1, given.simulations // 20))
        cells = [equal["step-down"][0], equal["Holm"][0], better["step-down"][1], better["Holm"][1]]
        print(f"| {name} | " + " | ".join(f"{100 * cell:.1f}%" for cell in cells) + " |", flush=True)
        wrong += equal["step-down"][0] > MOST
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
