"""Do intervals of calibration errors, Brier scores and areas hold the truth, and do chosen confidences keep their word?

    python benchmarks/probabilities.py [--simulations 1000] [--only intervals|thresholds]

Simulated answers whose true probabilities of being right are known, judged by the product. Prints two Markdown tables
and exits with 1 where an interval of 95% holds the truth in fewer than 93 of 100 simulations, or a chosen confidence is
too low in more than 15. Every cell has its own
fixed seed.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.abstention import TARGETS, Cases
from tunelift.comparison.pairing import Pair
from tunelift.comparison.probabilities import probability_calibration

Floats = NDArray[np.float64]
Drawn = tuple[Floats, Floats]
"""Stated probabilities and true ones, each (items,)."""

LABELS = ["a", "b", "c"]
POPULATION = 2_000_000
LEAST, MOST_SHORT = 93.0, 15.0


@dataclass(frozen=True)
class Kind:
    """A kind of model: what it says, and how often that is so."""

    name: str
    draw: Callable[[np.random.Generator, int], Drawn]


def _says(sharp: float) -> Callable[[np.random.Generator, int], Floats]:
    """Draw confidences from 1/3 to 1, the more of them near 1 the higher `sharp`."""
    return lambda source, count: 1 / 3 + (2 / 3) * source.beta(sharp, 1.0, count)


def _tempered(stated: Floats, temperature: float) -> Floats:
    """Return the probability that a model which is `temperature` too sharp means by what it says."""
    odds = np.log(np.clip(stated, 1e-9, 1 - 1e-9) / np.clip(1 - stated, 1e-9, 1)) / temperature
    return np.asarray(1 / (1 + np.exp(-odds)))


def _kind(name: str, sharp: float, temperature: float) -> Kind:
    says = _says(sharp)

    def draw(source: np.random.Generator, count: int) -> Drawn:
        stated = says(source, count)
        return stated, _tempered(stated, temperature)

    return Kind(name, draw)


KINDS = [
    _kind("calibrated, unsure", 1.0, 1.0),
    _kind("calibrated, sure", 6.0, 1.0),
    _kind("overconfident", 3.0, 1.5),
    _kind("far overconfident", 8.0, 3.0),
]


def truths(kind: Kind) -> dict[str, float]:
    """Return calibration error in 15 bins of equally many, Brier score and area of a whole population."""
    source = np.random.default_rng(zlib.crc32(kind.name.encode()))
    stated, true = kind.draw(source, POPULATION)
    order = np.argsort(-stated)
    gaps = [np.mean(part) for part in np.array_split((true - stated)[order], 15)]
    risk = np.cumsum(1 - true[order]) / len(order)
    return {
        "ece": math.sqrt(float(np.mean(np.square(gaps)))),
        "brier": float(np.mean(brier_means(stated, true))),
        "brier of entities": float(np.mean(true * (1 - stated) ** 2 + (1 - true) * stated**2)),
        "augrc": float(risk.mean()),
    }


def brier_means(stated: Floats, true: Floats) -> Floats:
    """Return the expected Brier score: the two labels that are not chosen share the rest, and are as often right."""
    rest = (1 - stated) / 2
    right = (1 - stated) ** 2 + 2 * rest**2
    wrong = stated**2 + (1 - rest) ** 2 + rest**2
    return np.asarray(true * right + (1 - true) * wrong)


def rows_of(stated: Floats, right: Floats, clusters: NDArray[np.intp] | None) -> list[dict[str, Any]]:
    """Return rows as a run has them; the prediction is always "a"."""
    rows = []
    for i, (share, is_right) in enumerate(zip(stated.tolist(), right.tolist(), strict=True)):
        rest = math.log(max((1 - share) / 2, 1e-12))
        row = {"prediction": "a", "reference": "a" if is_right else LABELS[1 + i % 2]}
        row["label_scores"] = {"a": math.log(share), "b": rest, "c": rest}
        rows.append(row if clusters is None else row | {"cluster": str(clusters[i])})
    return rows


def simulated(kinds: tuple[Kind, Kind], units: int, each: int, simulations: int) -> dict[str, float]:
    """Return in how many of 100 simulations each interval holds the truth.

    Items of one unit, of which there are `each`, are all right or all wrong together, at one stated probability: the
    worst that clusters can be.
    """
    source = np.random.default_rng(zlib.crc32(f"{kinds[0].name} {kinds[1].name} {units} {each}".encode()))
    known, held = [truths(kind) for kind in kinds], Held()
    clusters = np.repeat(np.arange(units), each) if each > 1 else None
    for _ in range(simulations):
        sides = []
        luck = source.random(units)  # shared by both sides, so that they are right on much the same items
        for kind in kinds:
            stated, true = kind.draw(source, units)
            sides.append(rows_of(np.repeat(stated, each), np.repeat((luck < true).astype(float), each), clusters))
        held.look(sides, {key: [one[key] for one in known] for key in ("ece", "brier", "augrc")})
    return held.shares()


def simulated_entities(kinds: tuple[Kind, Kind], sentences: int, simulations: int) -> dict[str, float]:
    """Return the same for tags: base gives no to two entities a sentence, tuned no to four, each as likely."""
    source = np.random.default_rng(zlib.crc32(f"{kinds[0].name} {kinds[1].name} {sentences} sentences".encode()))
    known, held = [truths(kind) for kind in kinds], Held()
    wanted = {"ece": [one["ece"] for one in known], "brier": [one["brier of entities"] for one in known]}
    for _ in range(simulations):
        sides = []
        for kind, most in zip(kinds, (2, 4), strict=True):
            rows = []
            for count in source.integers(0, most + 1, sentences).tolist():
                stated, true = kind.draw(source, count)
                right = source.random(count) < true
                tags = " ".join(["B-b", *("B-a" if one else "B-b" for one in right)])
                rows.append({"prediction": " ".join(["O", *["B-a"] * count]), "reference": tags})
                rows[-1]["entity_probabilities"] = stated.tolist()
            sides.append(rows)
        held.look(sides, wanted)
    return held.shares()


class Held:
    """How often intervals held the truth, of base and of the difference."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def look(self, sides: list[list[dict[str, Any]]], truth: dict[str, list[float]]) -> None:
        """Judge the rows of base and tuned; `truth` has both sides' true values by name."""
        pairs = [Pair(str(i), *both, item=str(i)) for i, both in enumerate(zip(*sides, strict=True))]
        found = probability_calibration(pairs, 0.95)
        assert found is not None
        for key, (base, tuned) in truth.items():
            difference = found["interval"] if key == "ece" else found[key]["interval"]
            seen = {key: (found["base"][f"{key}_interval"], base), f"{key} difference": (difference, tuned - base)}
            for name, (interval, value) in seen.items():
                if interval is not None:
                    self.held.setdefault(name, []).append(bool(interval[0] <= value <= interval[1]))

    def shares(self) -> dict[str, float]:
        """Return in how many of 100 each did."""
        return {name: 100 * float(np.mean(values)) for name, values in self.held.items()}


def merely_seen(stated: Floats, right: Floats, target: float) -> float | None:
    """Return the lowest confidence from which on at least 20 validation rows are right in a share `target`."""
    order = np.argsort(-stated)
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    fitting = np.flatnonzero((share >= target) & (np.arange(len(order)) >= 19))
    return float(stated[order][fitting[-1]]) if len(fitting) else None


def promised(kind: Kind, validation: int, target: float, simulations: int) -> tuple[float, float, float, float]:
    """Return of simulations how often a confidence is chosen, the mean share truly right from there on, how often it is
    too low, and how often the lowest at which the share is merely seen would be; all in percent.

    The truth is that of the population.
    """
    source = np.random.default_rng(zlib.crc32(f"{kind.name} {validation} {target}".encode()))
    stated, true = kind.draw(source, 200_000)
    order = np.argsort(-stated)
    ordered, share = -stated[order], np.cumsum(true[order]) / np.arange(1, len(order) + 1)

    def truth(confidence: float) -> float:
        return float(share[max(1, int(np.searchsorted(ordered, -confidence, side="right"))) - 1])

    found, seen = list[float](), list[float]()
    for _ in range(simulations):
        picked = source.integers(len(stated), size=validation)
        right = (source.random(validation) < true[picked]).astype(float)
        chosen = Cases(stated[picked], right, np.arange(validation)).threshold(target)
        plain = merely_seen(stated[picked], right, target)
        found += [] if chosen is None else [truth(chosen)]
        seen += [] if plain is None else [truth(plain)]
    short, shorter = (100 * sum(value < target for value in some) / simulations for some in (found, seen))
    return 100 * len(found) / simulations, 100 * float(np.mean(found)) if found else math.nan, short, shorter


def intervals(simulations: int) -> Iterator[str]:
    """Print how often intervals hold the truth, and yield what is beyond the limits."""
    names = [name for key in ("ece", "brier", "augrc") for name in (key, f"{key} difference")]
    print(f"| base, tuned, items | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for one, other in ((0, 1), (1, 0), (2, 0), (3, 1)):
        for units, each in ((50, 1), (100, 1), (300, 1), (120, 5)):
            kinds = KINDS[one], KINDS[other]
            held = simulated(kinds, units, each, simulations)
            title = f"{kinds[0].name}; {kinds[1].name}; {units}{f' clusters of {each}' if each > 1 else ''}"
            yield from shown(title, held, names)
    for one, other in ((2, 0), (3, 1)):
        for sentences in (50, 200):
            title = f"{KINDS[one].name}; {KINDS[other].name}; {sentences} sentences with entities"
            yield from shown(title, simulated_entities((KINDS[one], KINDS[other]), sentences, simulations), names)


def shown(title: str, held: dict[str, float], names: list[str]) -> Iterator[str]:
    """Print a line of the table, and yield what is beyond the limit."""
    print(f"| {title} | {' | '.join(f'{held[n]:.1f}' if n in held else '-' for n in names)} |", flush=True)
    yield from (f"{title}: {name} {value:.1f}" for name, value in held.items() if value < LEAST)


def thresholds(simulations: int) -> Iterator[str]:
    """Print what becomes of chosen confidences, and yield what is beyond the limits."""
    print("| model, validation rows, right asked for | chosen | truly right | too low | too low if merely seen |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        for validation in (50, 200, 1000):
            for target in TARGETS:
                chosen, right, short, plain = promised(kind, validation, target, simulations)
                shown = "-" if math.isnan(right) else f"{right:.1f}"
                print(
                    f"| {kind.name}, {validation}, {target:.0%} | {chosen:.1f} | {shown} | {short:.1f} | {plain:.1f} |",
                    flush=True,
                )
                if short > MOST_SHORT:
                    yield f"{kind.name}, {validation}, {target:.0%}: too low in {short:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--only", choices=["intervals", "thresholds"])
    options = parser.parse_args()
    parts = {"intervals": intervals, "thresholds": thresholds}
    chosen = [options.only] if options.only else list(parts)
    broken = [problem for name in chosen for problem in parts[name](options.simulations)]
    for problem in broken:
        print(f"beyond the limits: {problem}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
