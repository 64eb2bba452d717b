"""The table of metrics: one function each, with its direction and what it needs of the model.

To add a metric, write a function from `Answer` to a number in a file of this folder, and add it to `METRICS` there. A
metric of the whole data set takes two: from `Answer` to counts, and from summed counts to the value.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunelift.core.errors import InputError
from tunelift.core.records import ScoreRow
from tunelift.core.registry import Registry
from tunelift.metrics.directions import known_bounds, known_direction, plain_name
from tunelift.metrics.own_functions import function_in_file, is_code, sha256_of

UserMetric = Callable[..., float]
Floats = NDArray[np.float64]
Totals = Mapping[str, Floats]
FromCounts = Callable[[Totals], Floats]
"""From totals by name, each of shape (selections,), to values of shape (selections,)."""
FromItems = Callable[[Mapping[str, Floats], Floats], Floats]
"""From the items' numbers by name, (items,) each, and how often each item counts, (selections, items), to values."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One item answered: the model's text or label, the reference, and the reference's log-likelihood.

    `log_likelihood` is the sum over the reference's `tokens` target tokens, in nats, and None where it was not
    computed; `row` holds the columns the item came from. `scores` are probabilities by label, where they are known;
    `references` all references, where there are several; `samples` are answers that were drawn, where some were.
    `ranks` are the places, from 1, at which what belongs to the item was found among what there is, in order, of
    `relevant` ones in all.
    """

    prediction: str
    reference: str
    log_likelihood: float | None = None
    tokens: int = 0
    row: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    references: Sequence[str] = ()
    samples: Sequence[str] = ()
    ranks: Sequence[int] = ()
    relevant: int = 0

    @property
    def accepted(self) -> Sequence[str]:
        """Every reference, any of which may be matched."""
        return self.references or (self.reference,)


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


@dataclass(frozen=True, slots=True)
class Metric:
    """What is measured on each item.

    `needs` says what the model must do for it: "label" chooses among labels, "text" generates (where labels are chosen
    from, the label is the text), "likelihood" scores the reference's tokens, "text-likelihood" those of all its text,
    "samples" draws several answers; a task says what it gives. A "binary" metric is 0 or 1 per item; `bounds` are the
    least and the largest value that an item can have, or, where single items have none, the metric. `ratio` makes the
    aggregate where that is not the mean of the items' values, but a ratio of sums over them.

    A "corpus" metric has no `score` but `counts` of an item, which are summed over the items, and `from_counts`, which
    makes the value of the sums. Every item has all of the counts, but for a `sparse` metric, of which a row names
    those that are not 0. Where the value depends on how items stand to each other, such as a correlation of ranks, the
    counts are an item's own numbers, `from_items` makes the value of all of them, and `closeness` says of each how near
    its answer is, for people to see which items changed. `package` must be installed to score an answer.
    `defined_by` is what its values depend on besides its name, such as a schema: where it differs, so does the metric.
    `samples` is how many answers it needs to be drawn at least.
    """

    name: str
    score: Callable[[Answer], float] | None
    needs: str
    kind: Literal["binary", "graded", "corpus"] = "graded"
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None
    ratio: Ratio | None = None
    counts: Callable[[Answer], Mapping[str, float]] | None = None
    sparse: bool = False
    from_counts: FromCounts | None = None
    from_items: FromItems | None = None
    closeness: Callable[[Mapping[str, Floats]], Floats] | None = None
    package: str | None = None
    defined_by: str | None = None
    samples: int = 0


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

METRICS: Registry[Metric] = Registry("metric")

WITH_ARGUMENT: Registry[Callable[[str], Metric]] = Registry("metric with an argument")
"""Metrics that are named with what they are of, such as regex_match:PATTERN."""


def corpus_metric(
    name: str,
    counts: Callable[[Answer], Mapping[str, float]],
    from_counts: FromCounts,
    needs: str,
    package: str | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    sparse: bool = False,
) -> Metric:
    """Return a metric of the whole data set, whose value is within `bounds` where it has any; see `Metric`."""
    made = Metric(name, None, needs, "corpus", counts=counts, from_counts=from_counts, package=package)
    return replace(made, bounds=bounds, sparse=sparse)


def resolve(names: Sequence[str | UserMetric]) -> list[Metric]:
    """Return the metrics for names of the tables and for Python functions of the user's, or FILE.py:FUNCTION of one.

    A function takes `(prediction, reference)` or `(prediction, reference, row)`, the row being the item's columns, and
    returns a number; its own name is the metric's. Higher is better, but for well-known names (such as latency) and
    functions with an attribute `higher_is_better = False`. Raises InputError that lists every problem:
    unknown names, packages that are not installed, functions that do not fit, names given twice.
    """
    found: list[Metric] = []
    problems: list[str] = []
    fixes: list[str] = []
    for name in names:
        try:
            metric = _named(name) if isinstance(name, str) else _from_function(name)
            if metric.package is not None and find_spec(metric.package) is None:
                raise InputError(
                    f'The metric "{metric.name}" needs the package {metric.package.replace("_", "-")}, which is not '
                    "installed.",
                    fix="Install it: pip install 'tunelift[text]'.",
                )
        except InputError as error:
            problems.extend(error.problems)
            fixes.append(error.fix or "")
            continue
        if any(metric.name == other.name for other in found):
            problems.append(f'The metric "{metric.name}" is given twice.')
            fixes.append("Give each metric once, and functions names of their own.")
        found.append(metric)
    if problems:
        raise InputError(*problems, fix=" ".join(dict.fromkeys(fixes)))
    return found


def score_answer(answer: Answer, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return an answer's part of its row: "metrics" with the values, and "counts" where there are corpus metrics."""
    values = {metric.name: metric.score(answer) for metric in metrics if metric.score is not None}
    counts = {metric.name: dict(metric.counts(answer)) for metric in metrics if metric.counts is not None}
    return {"metrics": values, "counts": counts} if counts else {"metrics": values}


def aggregate(metric: Metric, rows: Iterable[ScoreRow]) -> float:
    """Return the metric's value over all scored rows (of the scores.jsonl contract).

    It is the mean of the items' values, but for loss, perplexity and bits per byte, which weigh by tokens and bytes,
    and for corpus metrics, which are made of the summed counts. Raises InputError where no row is scored.
    """
    kept = "metrics" if metric.counts is None else "counts"
    scored = [row for row in rows if (row.get(kept) or {}).get(metric.name) is not None]
    if not scored:
        raise InputError(
            f'No item has a value of "{metric.name}".', fix='See "unscored" in the rows for why they were left out.'
        )
    if metric.from_items is not None:
        names = scored[0]["counts"][metric.name]
        columns = {name: np.array([row["counts"][metric.name][name] for row in scored], dtype=float) for name in names}
        return float(metric.from_items(columns, np.ones((1, len(scored))))[0])
    if metric.from_counts is not None:
        totals = Counter[str]()
        for row in scored:
            totals.update(row["counts"][metric.name])
        summed = {name: np.array([total], dtype=float) for name, total in totals.items()}
        return float(metric.from_counts(summed)[0])
    if metric.ratio is not None:
        return metric.ratio.of(scored)
    return math.fsum(row["metrics"][metric.name] for row in scored) / len(scored)


def direction(name: str) -> bool | None:
    """Return whether higher is better: as the table says, or the well-known names; None where neither knows it."""
    return METRICS.get(name).higher_is_better if name in METRICS else known_direction(name)


def bounds(name: str) -> tuple[float, float] | None:
    """Return the least and the largest value for an item: as the table or the well-known names say, or None."""
    return METRICS.get(name).bounds if name in METRICS else known_bounds(name)


def formula(name: str) -> FromCounts | None:
    """Return what makes a metric's value of summed counts; None where no formula is known."""
    return METRICS.get(name).from_counts if name in METRICS else None


def is_sparse(name: str) -> bool:
    """Return whether a count that an item does not name is 0; elsewhere it is missing."""
    return name in METRICS and METRICS.get(name).sparse


def of_items(name: str) -> tuple[FromItems, Callable[[Mapping[str, Floats]], Floats]] | None:
    """Return what makes a metric's value of its items' numbers, and each item's closeness; None where none does."""
    metric = METRICS.get(name) if name in METRICS else None
    return (
        None
        if metric is None or not (metric.from_items and metric.closeness)
        else (metric.from_items, metric.closeness)
    )


def ratio_value(name: str) -> Callable[[Any], Any] | None:
    """Return what makes a metric's value of summed nats by summed weight; None where it is no such ratio."""
    own = METRICS.get(name).ratio if name in METRICS else None
    return own.value if own is not None else OF_COUNTS.get(plain_name(name))


def _named(name: str) -> Metric:
    kind, _, argument = name.partition(":")
    if kind not in WITH_ARGUMENT:
        if is_code(name):
            return replace(_from_function(function_in_file(name)), defined_by=sha256_of(name))
        return METRICS.get(name)
    if not argument:
        raise InputError(f'The metric "{kind}" is of something.', fix=f"Write {kind}: and behind it what it is of.")
    return WITH_ARGUMENT.get(kind)(argument)


def _from_function(function: UserMetric) -> Metric:
    name = getattr(function, "__name__", None)
    if not callable(function) or name is None or not name.isidentifier():
        raise InputError(
            f"{function!r} cannot be a metric: a name, or a function with a name of its own, is expected.",
            fix="Write def my_metric(prediction, reference): ... and pass my_metric.",
        )
    if name in METRICS:
        raise InputError(f'The function "{name}" has the name of a built-in metric.', fix="Rename the function.")
    takes_row = _parameters(function, name) == 3

    @wraps(function)  # by which others know that this is no code of ours
    def score(answer: Answer) -> float:
        given = (answer.prediction, answer.reference, answer.row)
        return _number(function(*given) if takes_row else function(*given[:2]), name)

    known = getattr(function, "higher_is_better", known_direction(name))
    if not isinstance(known, bool | None):
        raise InputError(
            f'The metric "{name}" has higher_is_better = {known!r}.', fix="It must be True or False, where it is there."
        )
    return Metric(name, score, "text", higher_is_better=known is not False)


def _parameters(function: UserMetric, name: str) -> int:
    """Return 2 or 3: how many arguments the function is to be called with."""
    try:
        signature = inspect.signature(function)
    except ValueError as error:  # some functions written in C do not tell
        raise InputError(
            f'The parameters of "{name}" are not known.', fix="Wrap it in a function of your own."
        ) from error
    for arguments in (2, 3):
        try:
            signature.bind(*[None] * arguments)
        except TypeError:
            continue
        return arguments
    raise InputError(
        f'The metric "{name}" takes {signature}.',
        fix="It must take (prediction, reference) or (prediction, reference, row).",
    )


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f'The metric "{name}" returned {value!r}.', fix="It must return a finite number for each item."
        )
    return number
