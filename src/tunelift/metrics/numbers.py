"""Metrics of numbers; prediction and reference are the numbers of each output, with blanks between.

Of several outputs each metric is the mean over them, as scikit-learn's are by default. A correlation with what does not
vary is not defined (scipy gives no number): it is taken to be 0 here, since what is the same for every item tells none
from another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from tunelift.metrics.registry import METRICS, Answer, Floats, FromItems, Metric, Totals, corpus_metric

ROUNDING, CANCELLED = 1e-28, 1e-12
"""Squares around a mean are none where they are less of the values' own squares, or of those around the mean of all."""

Numbers = Mapping[str, Floats]


def numbers(answer: Answer) -> tuple[list[float], list[float]]:
    """Return the numbers predicted and wanted."""
    predicted, wanted = ([float(number) for number in text.split()] for text in (answer.prediction, answer.reference))
    if len(predicted) != len(wanted):
        raise ValueError(f"{len(predicted)} numbers where {len(wanted)} are wanted")
    return predicted, wanted


def mae(answer: Answer) -> float:
    """Mean absolute error of the item's outputs."""
    predicted, wanted = numbers(answer)
    return sum(abs(a - b) for a, b in zip(predicted, wanted, strict=True)) / len(wanted)


def squared_counts(answer: Answer) -> dict[str, float]:
    """Return the squared error of each output, and 1 for the item."""
    found = {f"squared {i}": (a - b) ** 2 for i, (a, b) in enumerate(zip(*numbers(answer), strict=True))}
    return {"items": 1} | found


def rmse(totals: Totals) -> Floats:
    """Return the root of the mean squared error."""
    outputs = [totals[name] for name in totals if name.startswith("squared ")]
    means = np.stack(outputs) / np.maximum(totals["items"], 1)
    return np.asarray(np.sqrt(np.maximum(means, 0)).mean(axis=0))


def number_counts(answer: Answer) -> dict[str, float]:
    """Return the item's numbers themselves."""
    found: dict[str, float] = {}
    for i, (predicted, wanted) in enumerate(zip(*numbers(answer), strict=True)):
        found |= {f"predicted {i}": predicted, f"wanted {i}": wanted}
    return found


def closeness(items: Numbers) -> Floats:
    """Return how near each item's numbers are, (items,): the mean absolute error, negative."""
    return np.asarray(-np.mean([np.abs(predicted - wanted) for predicted, wanted in _outputs(items)], axis=0))


def _outputs(items: Numbers) -> list[tuple[Floats, Floats]]:
    count = sum(name.startswith("wanted ") for name in items)
    return [(items[f"predicted {i}"], items[f"wanted {i}"]) for i in range(count)]


def of_outputs(own: Callable[[Floats, Floats, Floats], Floats], items: Numbers, weights: Floats) -> Floats:
    """Return the mean over outputs of `own`, of predictions, references (items,) and weights (selections, items)."""
    return np.asarray(np.mean([own(predicted, wanted, weights) for predicted, wanted in _outputs(items)], axis=0))


def r2(predicted: Floats, wanted: Floats, weights: Floats) -> Floats:
    """Return the coefficient of determination, (selections,): the share of the variance that is not left over.

    References that are all the same have none: then it is 1 if every prediction is right, else 0, as scikit-learn's.
    """
    left, around = weights @ (predicted - wanted) ** 2, _spread(wanted, weights)
    value = 1 - left / np.where(around > 0, around, 1)
    return np.asarray(np.where(around > 0, value, np.where(left > 0, 0.0, 1.0)))


def _spread(values: Floats, weights: Floats) -> Floats:
    """Return the summed squares around the mean of each selection, (selections,); 0 where it has one value only."""
    centred, total = values - values.mean(), np.maximum(weights.sum(axis=1), 1e-300)
    squares = weights @ centred**2
    around = squares - (weights @ centred) ** 2 / total
    varies = (around > CANCELLED * squares) & (around > ROUNDING * (weights @ values**2))
    return np.asarray(np.where(varies, around, 0.0))


def pearson(predicted: Floats, wanted: Floats, weights: Floats) -> Floats:
    """Return Pearson's correlation of predictions and references, (selections,)."""
    x, y = predicted - predicted.mean(), wanted - wanted.mean()
    total = np.maximum(weights.sum(axis=1), 1e-300)
    together = weights @ (x * y) - (weights @ x) * (weights @ y) / total
    return _correlation(together, _spread(predicted, weights), _spread(wanted, weights))


def _correlation(together: Floats, one: Floats, other: Floats) -> Floats:
    """Return what varies together over what either does, (selections,), 0 where one does not vary."""
    varies = (one > 0) & (other > 0)
    below = np.sqrt(np.where(varies, one, 1)) * np.sqrt(np.where(varies, other, 1))
    return np.asarray(np.where(varies, together / below, 0.0))


def spearman(predicted: Floats, wanted: Floats, weights: Floats) -> Floats:
    """Return Spearman's correlation: Pearson's of the ranks, equal values sharing theirs; ranks are each selection's.

    An item that a selection has several times is several items with equal values.
    """
    one, other = (ranks(values, weights) for values in (predicted, wanted))
    together, first, second = ((weights * a * b).sum(axis=1) for a, b in ((one, other), (one, one), (other, other)))
    return _correlation(together, first, second)


def ranks(values: Floats, weights: Floats) -> Floats:
    """Return each item's rank among those that each selection has, less the mean rank: (selections, items)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) != 0]))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)  # of each group of equal values
    middle = np.cumsum(sizes, axis=1) - sizes / 2 - sizes.sum(axis=1, keepdims=True) / 2
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    return np.asarray(middle[:, group])


def items_metric(name: str, counts: Callable[[Answer], Mapping[str, float]], value: FromItems, needs: str) -> Metric:
    """Return a metric of how the items stand to each other."""
    return Metric(name, None, needs, "corpus", counts=counts, from_items=value, closeness=closeness)


METRICS.add("rmse", replace(corpus_metric("rmse", squared_counts, rmse, "numbers"), higher_is_better=False))
METRICS.add("mae", Metric("mae", mae, "numbers", higher_is_better=False))
OF_SPREAD = ("r2", "pearson", "spearman")
"""What is not defined where the references do not differ, and 0 there."""
for _name, _value in (("r2", r2), ("pearson", pearson), ("spearman", spearman)):
    _metric = items_metric(_name, number_counts, partial(of_outputs, _value), "numbers")
    METRICS.add(_name, _metric if _name == "r2" else replace(_metric, bounds=(-1.0, 1.0)))
