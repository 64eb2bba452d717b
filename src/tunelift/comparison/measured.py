"""The metrics both sides have: their names, directions and what each item gives, a value or counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.draws import Floats
from tunelift.comparison.pairing import LeftOut, Pair, Side, distinct
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import ScoreRow
from tunelift.metrics import METRICS, bounds, direction, formula, is_sparse, of_items, ratio_value

_COUNTS = 'Counts are written as "counts": {"bleu": {"matched 1": 7, ...}}, with numbers.'

Mask = NDArray[np.bool_]
Directions = Mapping[str, bool]
"""Whether higher is better, by metric, as the user said."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric over the pairs that have it on at least one side; `left_out` are those without it on both.

    `base` and `tuned` are values of shape (pairs,): not a number where a side has none, and they may be infinite. For a
    metric that is made of sums over the data set, such as BLEU or the loss by token, they are counts of shape
    (pairs, counts), and `value` makes values of shape (selections,) of summed counts (selections, counts).
    Where the value is a ratio of two such sums, the counts are nats and weight, and `of_ratio` makes the value of nats
    by weight. Where it depends on how the items stand to each other, the counts are their own numbers, and `of_items`
    makes values (selections,) of them and of how often each counts (selections, items); `closeness` is an item's own.
    `higher_is_better` is None where nobody says.
    """

    name: str
    higher_is_better: bool | None
    pairs: list[Pair]
    base: Floats
    tuned: Floats
    left_out: list[LeftOut]
    value: Callable[[Floats], Floats] | None = None
    of_ratio: Callable[[Floats], Floats] | None = None
    of_items: Callable[[Floats, Floats], Floats] | None = None
    closeness: Callable[[Floats], Floats] | None = None

    @property
    def of_set(self) -> bool:
        """Whether it is a value of the whole set, which has no mean over items."""
        return self.base.ndim == 2

    @property
    def both(self) -> Mask:
        """Which pairs are of items that have a finite value on both sides, in each of their rows, (pairs,)."""
        finite = np.isfinite(self.base) & np.isfinite(self.tuned)
        known = np.asarray(finite.all(axis=1) if self.of_set else finite)
        if known.all():
            return known
        member, _ = distinct(self.pairs)
        return np.asarray((np.bincount(member, weights=~known) == 0)[member])

    @property
    def items(self) -> int:
        """How many items, rows of equal content being one, have a finite value on both sides."""
        return distinct(self.over(self.both).pairs)[1]

    @property
    def one_sided(self) -> int:
        """How many more items there are, with a value on one side only."""
        return distinct(self.pairs)[1] - self.items

    @property
    def aggregates(self) -> tuple[float, float]:
        """The metric's value on each side over the items with a value on both."""
        known = self.over(self.both)
        base, tuned = known.by_distinct()
        if self.of_items is not None:
            once = np.ones((1, len(base)))
            return float(self.of_items(base, once)[0]), float(self.of_items(tuned, once)[0])
        if self.value is None:
            return float(base.mean()), float(tuned.mean())
        one, other = self.value(np.stack([base.sum(axis=0), tuned.sum(axis=0)])).tolist()
        return one, other

    @property
    def by_pair(self) -> tuple[Floats, Floats]:
        """Each pair's own value on both sides, of shape (pairs,): where there are counts, that of its own counts."""
        own = self.closeness or self.value
        return (self.base, self.tuned) if own is None else (own(self.base), own(self.tuned))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest value an item can have, where that is known and all finite ones obey."""
        if self.of_set:
            return None
        there = np.concatenate([self.base, self.tuned])
        there = there[np.isfinite(there)]
        known = bounds(self.name) or ((0.0, 1.0) if np.all((there == 0) | (there == 1)) else None)
        inside = known is not None and np.all((there >= known[0]) & (there <= known[1]))
        return known if inside else None

    @property
    def scale(self) -> tuple[float, float] | None:
        """The least and the largest value of the metric over items, where that is known and the values obey."""
        if not self.of_set:
            return self.bounds
        known = bounds(self.name) if self.both.any() else None
        if known is None:
            return None
        slack = 1e-9 * (known[1] - known[0])  # a correlation of 1 may be 1 and a rounding
        return known if all(known[0] - slack <= value <= known[1] + slack for value in self.aggregates) else None

    def by_distinct(self) -> tuple[Floats, Floats]:
        """Return both sides by item: the mean over the rows of one item."""
        member, count = distinct(self.pairs)
        if count == len(self.pairs):
            return self.base, self.tuned
        sums = np.zeros((2, count, *self.base.shape[1:]))
        np.add.at(sums[0], member, self.base)
        np.add.at(sums[1], member, self.tuned)
        size = np.bincount(member).astype(float)
        means = sums / (size[:, None] if self.of_set else size)
        return means[0], means[1]

    def over(self, chosen: Mask | NDArray[np.intp]) -> Measured:
        """Return the same metric over some of its pairs, given by a mask or by numbers."""
        numbers = np.arange(len(self.pairs))[chosen].tolist()
        pairs = [self.pairs[number] for number in numbers]
        return replace(self, pairs=pairs, base=self.base[chosen], tuned=self.tuned[chosen], left_out=[])


def common_metrics(base: Side, tuned: Side, pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Return the metrics both sides have, in base's order, and those only one side has.

    Raises InputError where there is none in common.
    """
    one, other = (_names(side, rows) for side, rows in zip((base, tuned), _sides(pairs), strict=True))
    common = [name for name in one if name in other]
    if not common:
        raise InputError(
            f"The sides have no metric in common: {listed(one) or 'none'} in base, {listed(other) or 'none'} in tuned.",
            fix="Evaluate both with the same metrics.",
        )
    return common, [name for name in [*one, *other] if name not in common]


def directions(higher_better: Sequence[str], lower_better: Sequence[str]) -> Directions:
    """Return the directions that the user gave; InputError for a metric with both."""
    if both := [name for name in higher_better if name in lower_better]:
        raise InputError(f"{listed(both)} cannot be better both higher and lower.", fix="Give each metric once.")
    return dict.fromkeys(higher_better, True) | dict.fromkeys(lower_better, False)


def chosen(metric: str | None, common: Mapping[str, bool | None]) -> str:
    """Return the metric the verdict is about: the one asked for, or the first.

    `common` says of each whether higher is better. Raises InputError for one that is not there, and where the first of
    several has no known direction, as the first number in anybody's table need not be what it is about.
    """
    if metric is None:
        first = next(iter(common))
        if len(common) > 1 and common[first] is None:
            raise InputError(
                f"Which metric the verdict should be about is not known. There are: {listed(common)}.",
                fix=f'Say --metric "{first}" (metric= in Python), or another.',
            )
        return first
    if metric not in common:
        raise InputError(
            f'The rows have no metric "{metric}" on both sides.{did_you_mean(metric, common)}',
            fix=f"Both have: {listed(common)}.",
        )
    return metric


def measure(name: str, base: Side, tuned: Side, pairs: Sequence[Pair], said: Directions | None = None) -> Measured:
    """Collect one metric's values or counts; a pair that lacks them on both sides is left out of this metric.

    Counts of a metric that tunelift has no formula for leave every pair out. `said` are directions that the user gave.
    Raises InputError where a value or a count is no number, counts lack what the formula needs, or the sides disagree
    on the direction or on what the metric is.
    """
    _refuse_another_metric(name, base, tuned)
    higher = said[name] if said and name in said else _direction(name, base, tuned)
    if any(name in _counts(row) for item in pairs for row in (item.base, item.tuned)):
        return _measure_counts(name, higher, pairs)
    rows = _sides(pairs)
    one, other = (np.array([_value(row, name) for row in side], dtype=float) for side in rows)
    there = ~np.isnan(one) | ~np.isnan(other)
    kept = [item for item, known in zip(pairs, there.tolist(), strict=True) if known]
    left_out = _left_out(pairs, f"finite {name}", np.isfinite(one), np.isfinite(other))
    return _as_ratio(Measured(name, higher, kept, one[there], other[there], left_out))


def _left_out(pairs: Sequence[Pair], what: str, base_has: Mask, tuned_has: Mask) -> list[LeftOut]:
    """Return the pairs that lack a value on a side, with the reason."""
    left_out = []
    for number in np.flatnonzero(~(base_has & tuned_has)).tolist():
        lacking = [side for side, has in (("base", base_has), ("tuned", tuned_has)) if not has[number]]
        reason = pairs[number].unscored or f"no {what} for {' and '.join(lacking)}"
        left_out.append(LeftOut(pairs[number].id, reason))
    return left_out


def _as_ratio(measured: Measured) -> Measured:
    """Return a metric that is a ratio of sums over the set with its sums, where all rows have them.

    Rows of another tool may have the name but not the sums, or other ones: then the mean over items stands.
    """
    ratio = METRICS.get(measured.name).ratio if measured.name in METRICS else None
    if ratio is None or not measured.both.all():
        return measured
    tables = []
    for rows, values in zip(_sides(measured.pairs), (measured.base, measured.tuned), strict=True):
        parts = [ratio.parts(row) for row in rows]
        if not parts or not all(parts):
            return measured
        table = np.array(parts, dtype=float)
        if not np.allclose(ratio.value(table[:, 0] / table[:, 1]), values, rtol=1e-3, atol=1e-6):
            return measured
        tables.append(table)
    return replace(
        measured, base=tables[0], tuned=tables[1], value=partial(_of_ratio, ratio.value), of_ratio=ratio.value
    )


def _of_ratio(of_ratio: Callable[[Any], Any], totals: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(of_ratio(totals[:, 0] / totals[:, 1]))


def _measure_counts(name: str, higher_is_better: bool | None, pairs: Sequence[Pair]) -> Measured:
    from_counts, of_ratio, by_items = formula(name), ratio_value(name), of_items(name)
    if from_counts is None and of_ratio is None and by_items is None:
        reason = f"{name} is given by counts, and tunelift has no formula for it"
        empty = np.empty((0,))
        return Measured(name, higher_is_better, [], empty, empty, [LeftOut(item.id, reason) for item in pairs])
    there = [[_checked_counts(row, name) for row in rows] for rows in _sides(pairs)]
    has = [np.array([counts is not None for counts in side]) for side in there]
    left_out = _left_out(pairs, f"counts of {name}", *has)
    numbers = np.flatnonzero(has[0] | has[1]).tolist()
    kept = [pairs[number] for number in numbers]
    one, other = ([side[number] for number in numbers] for side in there)
    first = () if of_ratio is None else ("nats", "weight")
    names = list(dict.fromkeys([*first, *(count for row in [*one, *other] for count in row or ())]))
    tables = _table(one, names), _table(other, names)
    if not is_sparse(name):
        _refuse_gaps(name, names, kept, (one, other))
    if by_items is not None:
        value, closeness = (partial(_by_name, own, names) for own in by_items)
        measured = Measured(name, higher_is_better, kept, *tables, left_out, of_items=value, closeness=closeness)
    else:
        value = partial(_from_totals, from_counts, names) if of_ratio is None else partial(_of_ratio, of_ratio)
        measured = Measured(name, higher_is_better, kept, *tables, left_out, value, of_ratio)
    try:
        _ = measured.aggregates if measured.both.any() else None
    except KeyError as error:
        raise InputError(
            f"The counts of {name} lack {error.args[0]!r}, in every row.",
            fix="Rows of another tool must give the counts under tunelift's own names.",
        ) from error
    return measured


def _refuse_gaps(
    name: str, names: Sequence[str], pairs: Sequence[Pair], sides: Sequence[Sequence[Mapping[str, float] | None]]
) -> None:
    """Raise InputError where a row lacks a number that others have: to take it as 0 would make a value of its own."""
    for item, *both in zip(pairs, *sides, strict=True):
        for side, counts in zip(("base", "tuned"), both, strict=True):
            if counts is not None and (lacking := [one for one in names if one not in counts]):
                raise InputError(
                    f'The counts of {name} of the item "{item.id}" lack {lacking[0]!r} in {side}.',
                    fix="Every row of both sides needs the names that any of them has.",
                )


def _from_totals(from_counts: Any, names: Sequence[str], totals: Floats) -> Floats:
    return np.asarray(from_counts(dict(zip(names, totals.T, strict=True))))


def _by_name(own: Any, names: Sequence[str], table: Floats, *weights: Floats) -> Floats:
    return np.asarray(own(dict(zip(names, table.T, strict=True)), *weights))


def _sides(pairs: Sequence[Pair]) -> tuple[list[ScoreRow], list[ScoreRow]]:
    return [item.base for item in pairs], [item.tuned for item in pairs]


def _table(rows: Sequence[Mapping[str, float] | None], names: Sequence[str]) -> Floats:
    """Return counts of shape (rows, names): 0 for a count that a row does not name, no number for a row without any."""
    columns = {count: number for number, count in enumerate(names)}
    table = np.zeros((len(rows), len(columns)))
    for number, row in enumerate(rows):
        if row is None:
            table[number] = math.nan
        for name, count in (row or {}).items():
            table[number, columns[name]] = count
    return table


def _counts(row: ScoreRow) -> Mapping[str, Mapping[str, float]]:
    counts = row.get("counts") or {}
    if not isinstance(counts, Mapping):
        raise InputError(f'The item "{row["id"]}" has counts = {counts!r}.', fix=_COUNTS)
    return counts


def _checked_counts(row: ScoreRow, name: str) -> Mapping[str, float] | None:
    counts = _counts(row).get(name)
    if counts is None or row.get("unscored"):
        return None
    finite = isinstance(counts, Mapping) and all(
        isinstance(count, int | float) and math.isfinite(count) for count in counts.values()
    )
    if not finite:
        raise InputError(f'The item "{row["id"]}" has counts of {name} = {counts!r}.', fix=_COUNTS)
    return dict(counts)


def _names(side: Side, rows: Sequence[ScoreRow]) -> list[str]:
    declared = side.info.get("metrics") or {}
    present = dict.fromkeys(name for row in rows for name in [*(row.get("metrics") or {}), *_counts(row)])
    return [*(name for name in declared if name in present), *(name for name in present if name not in declared)]


def _value(row: ScoreRow, name: str) -> float:
    value = None if row.get("unscored") else (row.get("metrics") or {}).get(name)
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise InputError(
            f'The item "{row["id"]}" has {name} = {value!r} on one of the sides.',
            fix="A metric's value must be a number.",
        )
    return float(value)


def _refuse_another_metric(name: str, base: Side, tuned: Side) -> None:
    """Raise InputError where the sides say that a metric is of another schema, pattern or code."""
    one, other = ((side.info.get("metrics") or {}).get(name, {}).get("defined_by") for side in (base, tuned))
    if one is not None and other is not None and one != other:
        raise InputError(
            f"{name} is another metric for {tuned.name} than for {base.name}: {str(one)!r:.80} and {str(other)!r:.80}.",
            fix="Evaluate both with the same schema, pattern or code.",
        )


def _direction(name: str, base: Side, tuned: Side) -> bool | None:
    said = [(side.info.get("metrics") or {}).get(name, {}).get("higher_is_better") for side in (base, tuned)]
    known = {bool(value) for value in said if value is not None}
    if len(known) > 1:
        raise InputError(f'base and tuned disagree on whether a higher {name} is better, in their "metrics.json".')
    return known.pop() if known else direction(name)
