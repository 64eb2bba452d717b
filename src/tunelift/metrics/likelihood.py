"""Metrics of how likely the model finds the reference; lower is better.

An item's value is its own. The value over a set weighs by tokens (loss, perplexity) or bytes (bits per byte), as these
are quoted everywhere: every token counts the same, however the items divide them. It is made of a ratio of two sums
over the items, and comparisons are of that ratio, with the items as what was sampled. The perplexities of
lm-evaluation-harness are such ratios too, over words, bytes or items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunelift.core.records import ScoreRow
from tunelift.metrics.answer import Answer


def loss(answer: Answer) -> float:
    """Mean nats per target token of the item; the item must have target tokens."""
    return _nats(answer) / answer.tokens


def perplexity(answer: Answer) -> float:
    """The exponential of the item's loss; infinite where that is too large for a float."""
    return _exponential(loss(answer))


def bits_per_byte(answer: Answer) -> float:
    """Bits per UTF-8 byte of the item's reference; the token that closes it is in the bits and is no byte."""
    return _nats(answer) / math.log(2) / _bytes(answer.reference)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A value made of two sums over the items: `value` of summed nats over summed weight.

    `weight` is an item's from its row (of the scores.jsonl contract), or None where the row does not say. `value`
    takes nats per weight, of any shape.
    """

    weight: Callable[[ScoreRow], float | None]
    value: Callable[[Any], Any]

    def parts(self, row: ScoreRow) -> tuple[float, float] | None:
        """Return an item's nats and weight; None where the row does not say both."""
        nats, weight = row.get("log_likelihood"), self.weight(row)
        return None if nats is None or not weight else (-nats, weight)

    def of(self, rows: Sequence[ScoreRow]) -> float:
        """Return the value over rows that all say both; infinite where it is too large for a float."""
        nats, weights = zip(*filter(None, map(self.parts, rows)), strict=True)
        return float(self.value(math.fsum(nats) / math.fsum(weights)))


def exponential(nats: Any) -> Any:
    """Return the perplexity for nats per unit; infinite beyond the floats."""
    with np.errstate(over="ignore"):
        return np.exp(nats)


def bits(nats: Any) -> Any:
    """Return nats in bits."""
    return nats / math.log(2)


RATIOS = {
    "loss": Ratio(lambda row: row.get("tokens"), lambda nats: nats),
    "perplexity": Ratio(lambda row: row.get("tokens"), exponential),
    "bits_per_byte": Ratio(lambda row: _bytes(row["reference"]), bits),
}
"""The values over a set of the three metrics above."""

OF_COUNTS = {
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity"), exponential),
    "bits_per_byte": bits,
}
"""What makes lm-evaluation-harness's values of nats per weight; its readers give both as counts of an item."""


def _nats(answer: Answer) -> float:
    if answer.log_likelihood is None:
        raise ValueError("the reference's log-likelihood was not computed")
    return -answer.log_likelihood


def _bytes(reference: str) -> int:
    return max(len(reference.encode()), 1)  # an empty reference is only its closing token, counted as one byte


def _exponential(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
