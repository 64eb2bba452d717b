"""What several seeds show about the recipe: another adapter made in the same way, on these items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison.effects import within
from tunelift.comparison.results import finite
from tunelift.comparison.verdict import Scale
from tunelift.wording.numbers import interval_text, level_text

CLAIM = "this recipe against the base, with other seeds, on these items"

FEWEST_SEEDS = 5
"""With fewer the spread was hardly seen: at 95%, Student's factor is 12.7 for two seeds and 2.8 for five."""

LARGEST = 1e150
"""The square of a larger difference is beyond the floats."""


def recipe_claim(
    seeds: Sequence[int],
    base: float,
    tuned: Sequence[float],
    higher_is_better: bool | None,
    level: float,
    *,
    scale: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return the entry "recipe" of comparison.json: the mean difference over seeds, its interval and verdict.

    `base` is the base's value of the headline metric and `tuned` that of each seed's adapter, on the same items. The
    interval at `level` is Student's over the k differences, with k - 1 degrees of freedom, and ends where the metric's
    `scale` does. Interval and p are None for
    fewer than five seeds, and where every seed gives the same difference. Numbers that are not finite become None, and
    then nothing is claimed. The items are taken as they are: what other items would give is for the interval of a
    single adapter.
    """
    differences = [value - base for value in tuned]
    mean, interval, p = None, None, None
    word, reason = "inconclusive", "a value is missing, no finite number, or too large."
    if all(abs(difference) < LARGEST for difference in differences):
        mean = math.fsum(differences) / len(differences)
        interval, p, missing = _over_seeds(differences, mean, level)
        interval = interval if interval is None or scale is None else within(interval, scale)
        word, reason = _judge(interval, missing, higher_is_better, level)
    return {
        "seeds": list(seeds),
        "tuned": [finite(value) for value in tuned],
        "differences": [finite(value) for value in differences],
        "difference": mean,
        "interval": None if interval is None else list(interval),
        "p": p,
        "verdict": word,
        "reason": reason,
        "claim": CLAIM,
    }


def _over_seeds(
    differences: Sequence[float], mean: float, level: float
) -> tuple[tuple[float, float] | None, float | None, str]:
    """Return the t interval and p, or None for both and why."""
    count = len(differences)
    if count < FEWEST_SEEDS:
        return None, None, f"a claim about the recipe takes at least {FEWEST_SEEDS} seeds, and there are {count}"
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    # Below this a spread is what rounding leaves of equal differences.
    if error <= 1e-12 * max(1.0, *map(abs, differences)):
        return None, None, "the difference is the same for every seed, so its spread is not known"
    half = float(special.stdtrit(count - 1, (1 + level) / 2)) * error
    return (mean - half, mean + half), 2 * float(special.stdtr(count - 1, -abs(mean) / error)), ""


def _judge(
    interval: tuple[float, float] | None, missing: str, higher_is_better: bool | None, level: float
) -> tuple[str, str]:
    if interval is None:
        return "inconclusive", f"{missing}."
    low, high = interval
    extent = interval_text(low, high)
    shown = f"the {level_text(level)} interval over the seeds of the difference against the base, {extent},"
    if low <= 0 <= high:
        return "inconclusive", f"{shown} contains 0."
    lower = " (lower is better)" if higher_is_better is False else ""
    word = Scale("", higher_is_better).word(1 if low > 0 else -1)
    return word, f"{shown} lies {'above' if low > 0 else 'below'} 0{lower}."
