"""Are the verdicts right as often as they say? Simulated comparisons whose truth is known, judged by the product.

    python benchmarks/calibration.py [--simulations 20000] [--json FILE]   # the table of docs/evidence.md
    python benchmarks/calibration.py --size                                # the exact test at each number of items
    python benchmarks/calibration.py --speed                               # 200,000 items, 10,000 resamples

Prints a Markdown table and exits with 1 if a cell breaks its limit. Every cell has its own fixed seed. `--only TEXT`
takes the cells whose names hold the text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from tunelift.comparison import power
from tunelift.comparison.effects import effect_of
from tunelift.comparison.means import Extent, bootstrap_extent, mean_of, t_extent, wider
from tunelift.comparison.measured import Measured
from tunelift.comparison.paired_tests import graded_effect
from tunelift.comparison.pairing import Pair
from tunelift.comparison.resampling import corpus_effect
from tunelift.comparison.unconditional import critical_value, unconditional_interval, unconditional_p

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
LEVEL = 0.95
PER_CLUSTER = 10
ALIKE = 0.3  # share of the variance that items of one cluster have in common
ELEMENTS = 4_000_000  # numbers held at once

LIMITS = {"wrong": 5.5, "low": 94.0, "high": 96.0, "power": 3.0}
CAREFUL = "careful"
KNOWN: dict[str, tuple[dict[str, float], str]] = {
    "graded, 30 items, normal": ({"power": 4.0}, CAREFUL),
    "right/wrong, 100 items": ({"high": 97.0}, CAREFUL),
    "right/wrong, 8 clusters of 10": ({"high": 99.0}, CAREFUL),
    "right/wrong, 30 clusters of 10": ({"high": 97.5}, CAREFUL),
    "right/wrong, 100 clusters of 10": ({"high": 97.0}, CAREFUL),
}
"""Cells that cannot keep the limits, by the start of their names, with limits of their own and the reason."""


@dataclass(frozen=True)
class Cell:
    """What one cell found, in percent: wrong verdicts and p below 5% under a true null, coverage, power.

    `coverage` is that of the true difference where there is one. `expected` is the power printed (right/wrong) or known
    of the t test (normal differences).
    """

    name: str
    wrong: float
    wrong_by_p: float
    coverage: float | None
    power: float | None = None
    expected: float | None = None
    discordant: float | None = None

    @property
    def exception(self) -> tuple[dict[str, float], str]:
        """The limits that do not hold here, as they do hold, and why."""
        return next((known for name, known in KNOWN.items() if self.name.startswith(name)), ({}, ""))

    def broken(self) -> list[str]:
        """Say which of the limits of docs/evidence.md the cell breaks; a known exception has its own."""
        limits, problems = LIMITS | self.exception[0], []
        if self.wrong > limits["wrong"]:
            problems.append("wrong verdicts")
        if self.coverage is not None and self.coverage < limits["low"]:
            problems.append("coverage too low")
        if (self.discordant or 0) >= 20 and (self.coverage or 0) > limits["high"]:
            problems.append("coverage too high")
        if self.power is not None and self.expected is not None and abs(self.power - self.expected) > limits["power"]:
            problems.append("power")
        return problems


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def percent(values: NDArray[np.bool_]) -> float:
    return round(100 * float(np.mean(values)), 2)


def outside(extent: Extent, truth: float = 0.0) -> NDArray[np.bool_]:
    return (extent.low > truth) | (extent.high < truth)


def joined(parts: list[Extent]) -> Extent:
    low, high, p = (np.concatenate(values) for values in list(zip(*parts, strict=True))[:3])
    return Extent(low, high, p)


# Right/wrong items, independent


COVERED, MOST = 2000, 100
"""Simulated tables whose interval is made, and items up to which: one of 1,000 items takes a tenth of a second."""


def binary(name: str, simulations: int, items: int, discordance: float, *, sign: int = 1) -> Cell:
    """A null with that share of changed items, and the difference that the printed curve names (or half of them)."""
    draws = generator(name)
    truth = power.smallest_difference(items, discordance, LEVEL) or discordance / 2
    null = draws.multinomial(items, [discordance / 2] * 2 + [1 - discordance], simulations)
    gained, lost = (discordance + sign * truth) / 2, (discordance - sign * truth) / 2
    real = draws.multinomial(items, [gained, lost, 1 - discordance], simulations)
    covered = (
        [contains(*table[:2], items, sign * truth) for table in real[:COVERED].tolist()] if items <= MOST else None
    )
    wrong = percent(p_values(null, items) < 1 - LEVEL)
    shown = (p_values(real, items) < 1 - LEVEL) & (np.sign(real[:, 0] - real[:, 1]) == sign)
    return Cell(
        name,
        wrong,
        wrong,
        None if covered is None else percent(np.array(covered)),
        percent(shown),
        round(100 * power.chance_to_show(items, discordance, truth, LEVEL), 2),
        round(items * discordance, 1),
    )


def p_values(tables: NDArray[np.int64], items: int) -> Floats:
    """Each table's p; equal tables are tested once."""
    pairs, index = np.unique(tables[:, :2], axis=0, return_inverse=True)
    return np.array([unconditional_p(rose, fell, items) for rose, fell in pairs.tolist()])[index]


@cache
def contains(rose: int, fell: int, items: int, truth: float) -> bool:
    low, high = unconditional_interval(rose, fell, items, LEVEL)
    return low <= truth <= high


def size(items: int) -> tuple[float, float, float]:
    """The chance of a wrong verdict at the worst discordance, that discordance, and the z from which on it is given."""
    z, changed = critical_value(items, LEVEL), np.arange(items + 1)
    least = np.ceil((changed + z * np.sqrt(changed)) / 2 - 1e-9)
    chance = np.where((least <= changed) & (changed > 0), 2 * special.bdtrc(np.maximum(least - 1, 0), changed, 0.5), 0)
    found = []
    for share in np.sin(np.linspace(0, np.pi / 2, max(400, int(8 * items**0.5)))) ** 2:
        reach = 8 * (items * share * (1 - share)) ** 0.5 + 8
        near = changed[max(0, int(items * share - reach)) : int(items * share + reach) + 1]
        found.append((float(stats.binom.pmf(near, items, share) @ chance[near]), float(share), z))
    return max(found)


def sizes() -> bool:
    """Print the size at many numbers of items; return whether it is above 5% at any."""
    print("| items | wrong at the worst discordance | that discordance | critical value |\n|---|---|---|---|")
    shown = (4, 5, 8, 16, 30, 50, 100, 300, 1000, 2000, 5000, 20_000, 200_000)
    worst = 0.0
    for items in shown:
        found, share, z = size(items)
        worst = max(worst, found)
        print(f"| {items:,} | {100 * found:.2f} | {share:.4f} | {z:.3f} |")
    every = max((size(items)[0], items) for items in range(1, 401))
    print(f"\nOf all from 1 to 400 items the worst is {every[1]}: {100 * every[0]:.3f}%.")
    return max(worst, every[0]) > 0.05 + 1e-6


# Graded differences: of independent items, or of clusters


def mean_extent(sums: Floats, size: int) -> Extent:
    """The product's interval of each row of unit sums; a row without spread has none, and is never a verdict."""
    sizes = np.full(sums.shape[1], float(size))
    mean = mean_of(sums, sizes)
    extent = wider(t_extent(mean, LEVEL), bootstrap_extent(mean, sums, sizes, LEVEL))
    known = mean.error > 0
    low, high = np.where(known, extent.low, -np.inf), np.where(known, extent.high, np.inf)
    return Extent(low, high, np.where(known, extent.p, 1.0))


def graded(name: str, simulations: int, shape: tuple[int, int], draw: Draw, *, normal: bool = False) -> Cell:
    """`shape` is units and items per unit; `draw` gives mean-zero differences of a given shape.

    A true difference shifts the intervals by itself, so that its power is seen on the same draws; it is the one that a
    t test shows with 80% power where differences are normal.
    """
    (units, size), draws = shape, generator(name)
    parts, errors = [], []
    rows = max(1, min(simulations, ELEMENTS // max(10_000, units * size)))
    for start in range(0, simulations, rows):
        count = min(rows, simulations - start)
        sums = clustered(draw, draws, (count, units), size)
        parts.append(mean_extent(sums, size))
        errors.append(sums.var(axis=1))
    extent = joined(parts)
    freedom, error = units - 1, float(np.sqrt(np.mean(np.concatenate(errors)) / (units - 1))) / size
    shift = noncentrality(freedom) * error
    return Cell(
        name,
        percent(outside(extent)),
        percent(extent.p < 1 - LEVEL),
        percent(~outside(extent)),
        percent(extent.low + shift > 0),
        80.0 if normal and units >= 30 else None,
    )


def clustered(draw: Draw, draws: np.random.Generator, shape: tuple[int, int], size: int) -> Floats:
    """Sums over the items of each unit; items of one cluster share a part of their difference."""
    if size == 1:
        return draw(draws, shape)
    own = sum(draw(draws, shape) for _ in range(size))
    return size * ALIKE**0.5 * draw(draws, shape) + (1 - ALIKE) ** 0.5 * own


def noncentrality(freedom: int) -> float:
    """The true difference, in standard errors, that a two-sided t test shows with 80% power."""
    critical = stats.t.ppf((1 + LEVEL) / 2, freedom)
    low, high = 1.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if stats.nct.sf(critical, freedom, middle) >= power.POWER else (middle, high)
    return high


def pair_of_normals(draws: np.random.Generator, shape: tuple[int, ...], correlation: float) -> tuple[Floats, Floats]:
    shared = correlation**0.5 * draws.standard_normal(shape)
    one, other = ((1 - correlation) ** 0.5 * draws.standard_normal(shape) for _ in range(2))
    return shared + one, shared + other


def normal_pairs(draws: np.random.Generator, shape: tuple[int, int], correlation: float) -> Floats:
    base, tuned = pair_of_normals(draws, shape, correlation)
    return tuned - base


def skewed_pairs(draws: np.random.Generator, shape: tuple[int, int], correlation: float) -> Floats:
    base, tuned = pair_of_normals(draws, shape, correlation)
    return np.exp(tuned) - np.exp(base)


def exponential(draws: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return draws.exponential(size=shape) - 1


def lognormal(draws: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return draws.lognormal(size=shape) - np.exp(0.5)


def mostly_zero(draws: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return (draws.random(shape) < 0.1) * draws.uniform(-1, 1, shape)


def repeats(draws: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Means of items that stand there one to five times: what they have in common, and noise that averages out."""
    times = 1 + np.arange(shape[1]) % 5
    return draws.exponential(size=shape) - 1 + draws.standard_normal(shape) / times**0.5


# Right/wrong items in clusters


def binary_clusters(name: str, simulations: int, clusters: int, rate: float, correlation: float) -> Cell:
    """Normal abilities with a shared part per cluster, right where above a threshold; the effect is 0.1 in the rate."""
    draws, changed = generator(name), rate - 0.1 if rate > 0.5 else rate + 0.1
    (null, discordant), (real, _) = (
        _binary_clusters(draws, (simulations, clusters), (rate, other), correlation) for other in (rate, changed)
    )
    shown = real.high < 0 if changed < rate else real.low > 0
    return Cell(
        name,
        percent(outside(null)),
        percent(null.p < 1 - LEVEL),
        percent(~outside(real, changed - rate)),
        percent(shown),
        discordant=round(discordant, 1),
    )


def _binary_clusters(
    draws: np.random.Generator, shape: tuple[int, int], rates: tuple[float, float], correlation: float
) -> tuple[Extent, float]:
    simulations, clusters = shape
    thresholds = special.ndtri(np.array(rates))
    parts, discordant = [], []
    rows = max(1, ELEMENTS // max(10_000, clusters * PER_CLUSTER))
    for start in range(0, simulations, rows):
        items = (min(rows, simulations - start), clusters, PER_CLUSTER)
        common = pair_of_normals(draws, (*items[:2], 1), correlation)
        own = pair_of_normals(draws, items, correlation)
        base, tuned = (
            ALIKE**0.5 * common[side] + (1 - ALIKE) ** 0.5 * own[side] < thresholds[side] for side in range(2)
        )
        parts.append(mean_extent(np.sum(tuned.astype(float) - base, axis=2), PER_CLUSTER))
        discordant.append(np.mean(np.sum(tuned != base, axis=(1, 2))))
    return joined(parts), float(np.mean(discordant))


# Macro-F1 from counts

PRIOR = np.array([0.5, 0.3, 0.15, 0.05])


def macro_f1(counts: Floats) -> Floats:
    """(samples, 2 classes): true positives, then predicted + actual, per class."""
    hits, total = np.split(counts, 2, axis=1)
    scores: Floats = np.mean(2 * hits / np.maximum(total, 1e-9), axis=1)
    return scores


def corpus(name: str, simulations: int, items: int, correlation: float) -> Cell:
    """Four classes; a null of 80% right on both sides, and an improvement from 60% to 75%."""
    draws = generator(name)
    null = _corpus(draws, simulations, items, (0.8, 0.8), correlation)
    real = _corpus(draws, simulations, items, (0.6, 0.75), correlation)
    truth = float(np.subtract(*(_true_f1(right) for right in (0.75, 0.6))))
    wrong, by_p = percent(outside(null)), percent(null.p < 1 - LEVEL)
    return Cell(name, wrong, by_p, percent(~outside(real, truth)), percent(real.low > 0))


def _corpus(
    draws: np.random.Generator, simulations: int, items: int, right: tuple[float, float], correlation: float
) -> Extent:
    found = np.empty((simulations, 3))
    for index in range(simulations):
        actual = draws.choice(len(PRIOR), items, p=PRIOR)
        latent = pair_of_normals(draws, (items,), correlation)
        sides = [
            _counts(actual, np.where(special.ndtr(z) < share, 0, draws.integers(1, len(PRIOR), items)))
            for z, share in zip(latent, right, strict=True)
        ]
        effect = corpus_effect(*sides, macro_f1, None, LEVEL)
        found[index] = (*(effect.interval or (-np.inf, np.inf)), 1.0 if effect.p is None else effect.p)
    return Extent(*found.T)


def _counts(actual: NDArray[np.int64], step: NDArray[np.int64]) -> Floats:
    each = np.eye(len(PRIOR))
    real, said = each[actual], each[(actual + step) % len(PRIOR)]
    return np.concatenate([real * said, real + said], axis=1)


# Ratios of sums, and scores that are missing


def ratio(name: str, simulations: int, items: int, draw: Draw) -> Cell:
    """A loss by token over items of very unequal lengths; the effect is a shift of every item's loss."""
    draws, found = generator(name), np.empty((simulations, 3))
    shift = 0.0
    for index in range(simulations):
        tokens = np.ceil(draws.lognormal(3, 0.8, items))
        before, change = draws.normal(2, 0.5, items), 0.2 * draw(draws, (1, items))[0]
        sides = (np.stack([loss * tokens, tokens], axis=1) for loss in (before, before + change))
        effect = effect_of(_measured(*sides, of_ratio=lambda nats: nats), LEVEL)
        found[index] = (*(effect.interval or (-np.inf, np.inf)), 1.0 if effect.p is None else effect.p)
    extent = Extent(*found.T)
    return Cell(name, percent(outside(extent)), percent(extent.p < 1 - LEVEL), percent(~outside(extent, shift)))


def gaps(name: str, simulations: int, items: int, missing: float) -> Cell:
    """Right/wrong items of which either side lacks a share, the wrong ones more often: four out of five of the gaps."""
    draws, found = generator(name), np.empty((simulations, 3))
    for index in range(simulations):
        sides = (draws.random((2, items)) < 0.6).astype(float)
        chance = np.where(sides == 0, 1.6, 0.4) * missing
        sides[draws.random((2, items)) < chance] = np.nan
        kept = ~np.isnan(sides).all(axis=0)
        effect = effect_of(_measured(*sides[:, kept]), LEVEL)
        found[index] = (*(effect.interval or (-np.inf, np.inf)), 1.0 if effect.p is None else effect.p)
    extent = Extent(*found.T)
    return Cell(name, percent(outside(extent)), percent(extent.p < 1 - LEVEL), percent(~outside(extent)))


def _measured(base: Floats, tuned: Floats, of_ratio: Callable[[Floats], Floats] | None = None) -> Measured:
    pairs = [Pair(str(number), {}, {}, str(number)) for number in range(len(base))]
    value = None if of_ratio is None else (lambda sums: sums[:, 0] / sums[:, 1])
    return Measured("simulated", True, pairs, base, tuned, [], value, of_ratio)


def _true_f1(right: float) -> float:
    joint = np.diag(PRIOR * right)
    for step in range(1, len(PRIOR)):
        joint += np.roll(np.diag(PRIOR * (1 - right) / (len(PRIOR) - 1)), step, axis=1)
    return float(np.mean(2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))))


# The whole table


def cells(simulations: int) -> Iterator[Callable[[], Cell]]:
    """Every cell, not yet run."""
    for items in (8, 16, 30, 100, 300, 1000, 2000):
        for share in power.DISCORDANCES:
            yield partial(binary, f"right/wrong, {items} items, {share:.0%} change", simulations, items, share)
    for units, size, what in ((n, 1, f"{n} items") for n in (8, 12, 16, 30, 100, 300, 1000, 2000)):
        yield from _graded_cells(simulations, (units, size), what)
    for clusters in (8, 30, 100):
        what = f"{clusters} clusters of {PER_CLUSTER}"
        for rate in (0.05, 0.5, 0.95):
            for correlation in (0, 0.5, 0.9):
                name = f"right/wrong, {what}, rate {rate}, correlation {correlation}"
                yield partial(binary_clusters, name, simulations, clusters, rate, correlation)
        yield from _graded_cells(simulations, (clusters, PER_CLUSTER), what)
    for items in (8, 30, 100):
        for draw in (partial(normal_pairs, correlation=0.5), exponential):
            kind = "exponential" if draw is exponential else "normal"
            name = f"loss by token, {items} items of unequal lengths, differences {kind}"
            yield partial(ratio, name, simulations // 4, items, draw)
    for items in (8, 30, 100):
        name = f"right/wrong with gaps, {items} items, 5% missing"
        yield partial(gaps, name, max(1, simulations // (10 if items < 100 else 40)), items, 0.05)
    for correlation in (0, 0.5, 0.9):
        name = f"macro-F1, 100 items, correlation {correlation}"
        yield partial(corpus, name, simulations // 20, 100, correlation)


def _graded_cells(simulations: int, shape: tuple[int, int], what: str) -> Iterator[Callable[[], Cell]]:
    yield partial(graded, f"graded, {what}, normal", simulations, shape, partial(normal_pairs, correlation=0.5),
                  normal=True)  # fmt: skip
    for correlation in (0, 0.9):
        draw = partial(skewed_pairs, correlation=correlation)
        yield partial(graded, f"skewed, {what}, lognormal pairs, correlation {correlation}", simulations, shape, draw)
    for draw in (exponential, lognormal, mostly_zero):
        yield partial(graded, f"skewed, {what}, differences {draw.__name__}", simulations, shape, draw)
    if shape[1] == 1:
        yield partial(graded, f"graded, {what}, each one to five times", simulations, shape, repeats)


def table(found: list[Cell]) -> str:
    """The cells as Markdown; percentages, and a dash where a number does not apply."""
    lines = ["| cell | wrong | p < 5% | coverage | power | expected | |", "|---|---|---|---|---|---|---|"]
    for cell in found:
        numbers = (cell.wrong, cell.wrong_by_p, cell.coverage, cell.power, cell.expected)
        shown = " | ".join("-" if number is None else f"{number:.1f}" for number in numbers)
        remark = ", ".join(cell.broken()) or cell.exception[1]
        lines.append(f"| {cell.name} | {shown} | {remark} |")
    return "\n".join(lines)


def speed() -> None:
    """Time the graded and a corpus effect, 200,000 items with 10,000 resamples, in whole; and the exact test."""
    draws = np.random.default_rng(0)
    base, tuned = draws.random(200_000), draws.random(200_000)
    start = time.perf_counter()
    graded_effect(base, tuned, None, LEVEL)
    print(f"graded effect, 200,000 items, 10,000 resamples: {time.perf_counter() - start:.1f} s")
    counts = [draws.integers(0, 9, (200_000, 10)).astype(float) for _ in range(2)]
    start = time.perf_counter()
    corpus_effect(*counts, lambda sums: sums[:, 0] / sums[:, 1:].sum(axis=1), None, LEVEL)
    print(f"corpus effect, 10 counts an item, the same:     {time.perf_counter() - start:.1f} s")
    for items in (1000, 2000, 200_000):
        start = time.perf_counter()
        unconditional_interval(items // 10, items // 15, items, LEVEL)
        print(f"right/wrong, {items:,} items: {time.perf_counter() - start:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000, help="per cell")
    parser.add_argument("--json", type=Path, help="write the cells to this file too")
    parser.add_argument("--speed", action="store_true", help="time 200,000 items instead")
    parser.add_argument("--size", action="store_true", help="the exact test's own error instead")
    parser.add_argument("--only", default="", help="cells whose names hold this")
    arguments = parser.parse_args()
    if arguments.speed:
        speed()
        return 0
    if arguments.size:
        return int(sizes())
    found = []
    for run in (run for run in cells(arguments.simulations) if arguments.only in run.args[0]):
        found.append(run())
        print(f"{found[-1].name}: wrong {found[-1].wrong}%", file=sys.stderr, flush=True)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in found], indent=1), encoding="utf-8")
    return int(any(cell.broken() for cell in found))


if __name__ == "__main__":
    sys.exit(main())
