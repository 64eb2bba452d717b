"""The items behind a difference: what went from wrong to right and from right to wrong, both outputs side by side."""

from __future__ import annotations

import math
from typing import Any

from tunelift.comparison.measured import Measured
from tunelift.comparison.paired_tests import is_binary
from tunelift.comparison.pairing import Pair

MOST_GRADED = 50
"""For a graded metric nearly every item changes; so many of the largest losses and of the largest gains are kept."""

Flip = dict[str, Any]


def find_flips(measured: Measured) -> list[Flip]:
    """Return the items that changed: lost ones first, worst first.

    Worst is the largest loss of log-likelihood of the reference for a right/wrong metric (file order where rows have
    none), and of the metric itself for a graded one. With a metric of the whole data set an item's value is that of its
    own counts: for macro F1 whether the label is right, for BLEU and chrF the text's own (a BLEU of fewer than four
    tokens is 0). Where no direction is known, a higher value stands with the gained ones.
    """
    measured = measured.over(measured.both)
    base, tuned = measured.by_pair
    changes = tuned - base
    gains = -changes if measured.higher_is_better is False else changes
    binary = is_binary(base) and is_binary(tuned)
    ranked: list[tuple[float, Flip]] = []
    for item, change, gain in zip(measured.pairs, changes.tolist(), gains.tolist(), strict=True):
        if change != 0:
            flip = {
                "id": item.id,
                "input": item.base["input"],
                "reference": item.base["reference"],
                "base": item.base.get("prediction"),
                "tuned": item.tuned.get("prediction"),
                "direction": "gained" if gain > 0 else "lost",
                "change": change,
            }
            ranked.append((_likelihood_gain(item) if binary else gain, flip))
    ranked.sort(key=lambda entry: entry[0])
    lost = [flip for _, flip in ranked if flip["direction"] == "lost"]
    gained = [flip for _, flip in ranked if flip["direction"] == "gained"]
    return [*lost, *gained] if binary else [*lost[:MOST_GRADED], *gained[-MOST_GRADED:]]


def _likelihood_gain(item: Pair) -> float:
    before, after = item.base.get("log_likelihood"), item.tuned.get("log_likelihood")
    if before is None or after is None:
        return 0.0
    gain = float(after) - float(before)
    return gain if math.isfinite(gain) else 0.0
