"""A prediction and its reference become numbers, one per item; each metric says which direction is better.

A metric of the whole data set (macro F1, BLEU, chrF) gives counts per item instead, of which its value is made.
"""

from tunelift.core.registry import import_all
from tunelift.metrics.directions import HIGHER_IS_BETTER, plain_name
from tunelift.metrics.registry import (
    METRICS,
    Answer,
    Metric,
    aggregate,
    bounds,
    direction,
    formula,
    is_sparse,
    of_items,
    ratio_value,
    resolve,
    score_answer,
)

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "Answer",
    "Metric",
    "aggregate",
    "bounds",
    "direction",
    "formula",
    "is_sparse",
    "of_items",
    "plain_name",
    "ratio_value",
    "resolve",
    "score_answer",
]

import_all(__name__, __path__)
