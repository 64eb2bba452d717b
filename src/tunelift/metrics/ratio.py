"""Values over a set of items that are no mean over them, but made of the ratio of two sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunelift.core.records import ScoreRow


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


OF_COUNTS = {
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity"), exponential),
    "bits_per_byte": bits,
}
"""What makes lm-evaluation-harness's values of nats per weight; its readers give both as counts of an item."""
