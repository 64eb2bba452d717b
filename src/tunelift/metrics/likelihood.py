"""Metrics of how likely the model finds the reference; lower is better.

An item's value is its own. The aggregate over a data set weighs by tokens (loss, perplexity) or bytes (bits per byte),
as these are quoted everywhere: every token counts the same, however the items divide them. A paired comparison instead
tests the mean over items of the items' own values, since items are what was sampled; for loss that is the mean of the
mean nats per token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.metrics.answer import Answer

Row = Mapping[str, Any]


def loss(answer: Answer) -> float:
    """Mean nats per target token of the item; the item must have target tokens."""
    return _nats(answer) / answer.tokens


def perplexity(answer: Answer) -> float:
    """The exponential of the item's loss; infinite where that is too large for a float."""
    return _exponential(loss(answer))


def bits_per_byte(answer: Answer) -> float:
    """Bits per UTF-8 byte of the item's reference; the token that closes it is in the bits and is no byte."""
    return _nats(answer) / math.log(2) / _bytes(answer.reference)


def pooled_loss(rows: Sequence[Row]) -> float:
    """Nats per target token over all rows."""
    tokens: int = sum(row["tokens"] for row in rows)
    return _total_nats(rows) / tokens


def pooled_perplexity(rows: Sequence[Row]) -> float:
    """The exponential of the loss over all rows."""
    return _exponential(pooled_loss(rows))


def pooled_bits_per_byte(rows: Sequence[Row]) -> float:
    """Bits per UTF-8 byte of reference over all rows."""
    return _total_nats(rows) / math.log(2) / sum(_bytes(row["reference"]) for row in rows)


def _nats(answer: Answer) -> float:
    if answer.log_likelihood is None:
        raise ValueError("the reference's log-likelihood was not computed")
    return -answer.log_likelihood


def _total_nats(rows: Sequence[Row]) -> float:
    return -math.fsum(row["log_likelihood"] for row in rows)


def _bytes(reference: str) -> int:
    return max(len(reference.encode()), 1)  # an empty reference is only its closing token, counted as one byte


def _exponential(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
