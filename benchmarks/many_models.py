"""How often does a table of equal models name one as better, and how often is a better one found?

    python benchmarks/many_models.py [--simulations 20000] [--models 20] [--items 100]

Draws tables of items by models whose items are correlated, compares every pair by the paired t test, and corrects p
over all pairs: by the product's step-down maximum, and by Holm for comparison. Then two models of which one is better
by two standard errors of the difference, right or wrong by item: how often the interval of `tunelift compare` shows
it, beside the power that the product says. Exits with 1 where more than 5.5% of the tables of equal models call any
pair different, or where one is found more or less often than was said.

Of a table of equal models only the smallest p matters, and its draws are counted until there are too many of them for
it: the answer is that of all draws, as is shown on the first tables. 20,000 tables take a few minutes so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tunelift.comparison import power, simultaneous
from tunelift.comparison.paired_tests import holm
from tunelift.comparison.simultaneous import step_down
from tunelift.comparison.unconditional import unconditional_interval

Floats = NDArray[np.float64]

LEVEL = 0.05
MOST = 0.055
SHARED = 0.8  # of an item's spread, what all models have in common
BLOCK = 500
"""Draws that are counted at once."""
HELD = 20
"""Tables whose short answer is held against the product's whole one."""
NOISE = 4.0
"""Standard errors of a share that what was found may be away from what was said."""
DISCORDANCES = (0.2, 0.4)


def tables(models: int, items: int, shift: float, right_wrong: bool) -> Callable[[], Floats]:
    """Return a source of tables (items, models) whose first model is better by `shift` of an item's own spread."""
    source = np.random.default_rng(20_260_401)

    def draw() -> Floats:
        common = SHARED * source.standard_normal((items, 1))
        table = common + np.sqrt(1 - SHARED**2) * source.standard_normal((items, models))
        table[:, 0] += shift
        return np.asarray(table > 0, dtype=float) if right_wrong else table

    return draw


def every_pair(table: Floats) -> tuple[Floats, list[float]]:
    """Return the differences (items, pairs) of every two models, and each pair's p by the paired t test."""
    one, other = np.array(list(combinations(range(table.shape[1]), 2))).T
    differences = table[:, other] - table[:, one]
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(table))
    size = np.abs(differences.mean(axis=0)) / np.where(error > 0, error, np.inf)
    return differences, (2 * special.stdtr(len(table) - 1, -size)).tolist()


@cache
def draws(rank: int) -> Floats:
    """Return what `step_down` draws for a correlation of this rank."""
    return np.random.Generator(np.random.SFC64(simultaneous._SEED)).standard_normal((simultaneous.DRAWS, rank))


def calls_any(p: list[float], differences: Floats) -> bool:
    """Tell whether `step_down` calls any pair different, from the smallest p alone."""
    if min(holm(p)) < LEVEL:
        return True
    sizes = -special.ndtri(np.clip(p, 1e-300, 1) / 2)
    order = np.argsort(-sizes, kind="stable")  # as `step_down` has them, so that the draws are the same
    factor, observed = simultaneous._factor(differences[:, order]), sizes[order[0]]
    normal = draws(factor.shape[1])
    beyond, enough = 0, LEVEL * (simultaneous.DRAWS + 1) - 1
    for start in range(0, simultaneous.DRAWS, BLOCK):
        some = slice(start, start + BLOCK)
        beyond += int((np.abs(normal[some] @ factor.T).max(axis=1) >= observed).sum())
        if beyond >= enough:
            return False
    return True


def equal(draw: Callable[[], Floats], simulations: int) -> tuple[float, float]:
    """Return the share of tables of which any pair is called different: by the step-down maximum, and by Holm."""
    found = np.zeros(2)
    for number in range(simulations):
        differences, p = every_pair(draw())
        called = calls_any(p, differences)
        if number < HELD and called != (min(step_down(p, differences)) < LEVEL):
            raise AssertionError(f"table {number}: the short way says {called}, and all draws do not")
        found += called, min(holm(p)) < LEVEL
    return float(found[0] / simulations), float(found[1] / simulations)


def better(draw: Callable[[], Floats], simulations: int) -> tuple[float, float]:
    """Return the share of the first model's pairs that are called different: by the step-down maximum, and by Holm."""
    found = np.zeros(2)
    for _ in range(simulations):
        table = draw()
        differences, p = every_pair(table)
        first = slice(table.shape[1] - 1)  # the pairs of the first model come first
        found += [(np.array(corrected)[first] < LEVEL).mean() for corrected in (step_down(p, differences), holm(p))]
    return float(found[0] / simulations), float(found[1] / simulations)


def two_errors(items: int, discordance: float, simulations: int) -> tuple[float, float, float]:
    """Return a true difference of two standard errors, how often it is shown, and how often the product says so.

    An item's difference is 1, -1 or 0, of variance discordance - difference**2.
    """
    difference = 2 * np.sqrt(discordance / (items + 4))
    rates = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    drawn = np.random.default_rng(20_260_401).multinomial(items, rates, size=simulations)[:, :2]
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    shown = [unconditional_interval(int(rose), int(fell), items, 1 - LEVEL)[0] > 0 for rose, fell in counts]
    return difference, float(times[shown].sum() / simulations), power.chance_to_show(items, discordance, difference)


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
        named = equal(tables(given.models, given.items, 0.0, right_wrong), given.simulations)
        found = better(tables(given.models, given.items, 0.35, right_wrong), max(1, given.simulations // 20))
        print(f"| {name} | " + " | ".join(f"{100 * cell:.1f}%" for cell in (*named, *found)) + " |", flush=True)
        wrong += named[0] > MOST
    print("\n| answers that change | better by two standard errors | found | power as said |\n|---|---|---|---|")
    for discordance in DISCORDANCES:
        difference, shown, said = two_errors(given.items, discordance, given.simulations)
        print(f"| {discordance:.0%} | {difference:+.3f} | {100 * shown:.1f}% | {100 * said:.1f}% |")
        wrong += abs(shown - said) > NOISE * np.sqrt(0.25 / given.simulations)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
