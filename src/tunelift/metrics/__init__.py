"""A prediction and its reference become numbers, one per item; each metric says which direction is better.

A metric of the whole data set (macro F1, BLEU, chrF) gives counts per item instead, of which its value is made.
"""

from tunelift.metrics.answer import Answer
from tunelift.metrics.registry import (
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    METRICS,
    Metric,
    aggregate,
    direction,
    direction_is_known,
    resolve,
    score_answer,
)

__all__ = [
    "HIGHER_IS_BETTER",
    "LOWER_IS_BETTER",
    "METRICS",
    "Answer",
    "Metric",
    "aggregate",
    "direction",
    "direction_is_known",
    "resolve",
    "score_answer",
]
