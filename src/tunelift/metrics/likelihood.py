"""Metrics of how likely the model finds the reference; lower is better.

An item's value is its own. The value over a set weighs by tokens (loss, perplexity) or bytes (bits per byte), as these
are quoted everywhere: every token counts the same, however the items divide them. It is made of a ratio of two sums
over the items, and comparisons are of that ratio, with the items as what was sampled. The perplexities of
lm-evaluation-harness are such ratios too, over words, bytes or items.
"""

from __future__ import annotations

import math

from tunelift.metrics.registry import METRICS, Answer, Metric, Ratio, bits, exponential


def loss(answer: Answer) -> float:
    """Mean nats per target token of the item; the item must have target tokens."""
    return _nats(answer) / answer.tokens


def perplexity(answer: Answer) -> float:
    """The exponential of the item's loss; infinite where that is too large for a float."""
    try:
        return math.exp(loss(answer))
    except OverflowError:
        return math.inf


def bits_per_byte(answer: Answer) -> float:
    """Bits per UTF-8 byte of the item's reference; the token that closes it is in the bits and is no byte."""
    return _nats(answer) / math.log(2) / _bytes(answer.reference)


def _nats(answer: Answer) -> float:
    if answer.log_likelihood is None:
        raise ValueError("the reference's log-likelihood was not computed")
    return -answer.log_likelihood


def _bytes(reference: str) -> int:
    return max(len(reference.encode()), 1)  # an empty reference is only its closing token, counted as one byte


for _name, _value, _needs, _ratio in (
    ("loss", loss, "likelihood", Ratio(lambda row: row.get("tokens"), lambda nats: nats)),
    ("perplexity", perplexity, "likelihood", Ratio(lambda row: row.get("tokens"), exponential)),
    ("bits_per_byte", bits_per_byte, "text-likelihood", Ratio(lambda row: _bytes(row["reference"]), bits)),
):
    METRICS.add(_name, Metric(_name, _value, _needs, higher_is_better=False, ratio=_ratio))
