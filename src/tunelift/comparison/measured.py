"""The metrics both sides have: their names, directions and what each item gives, a value or counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunelift.comparison.paired_tests import Effect, Floats, paired_effect
from tunelift.comparison.pairing import LeftOut, Pair, Row, Side, clusters_of
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.metrics import METRICS, direction, direction_is_known

_COUNTS = 'Counts are written as "counts": {"bleu": {"matched 1": 7, ...}}, with numbers.'


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric over the pairs that have it on both sides, and who was left out.

    `base` and `tuned` are values of shape (pairs,). For a metric of the whole data set, such as BLEU, they are counts
    of shape (pairs, counts), and `value` makes values of shape (selections,) of summed counts (selections, counts).
    """

    name: str
    higher_is_better: bool
    pairs: list[Pair]
    base: Floats
    tuned: Floats
    left_out: list[LeftOut]
    value: Callable[[Floats], Floats] | None = None

    @property
    def aggregates(self) -> tuple[float, float]:
        """The metric's value on each side over these pairs."""
        if self.value is None:
            return float(self.base.mean()), float(self.tuned.mean())
        totals = np.stack([self.base.sum(axis=0), self.tuned.sum(axis=0)])
        base, tuned = self.value(totals).tolist()
        return base, tuned

    @property
    def by_item(self) -> tuple[Floats, Floats]:
        """Each item's own value on both sides, of shape (pairs,): where there are counts, that of its own counts."""
        if self.value is None:
            return self.base, self.tuned
        return self.value(self.base), self.value(self.tuned)


def effect_of(measured: Measured, level: float) -> Effect:
    """Return the effect by the test that fits the metric and the items."""
    clusters = clusters_of(measured.pairs)
    if measured.value is None:
        return paired_effect(measured.base, measured.tuned, clusters, level)
    from tunelift.comparison.resampling import corpus_effect

    return corpus_effect(measured.base, measured.tuned, measured.value, clusters, level)


def common_metrics(base: Side, tuned: Side, pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Return the metrics both sides have, in base's order, and those only one side has.

    Raises InputError where there is none in common.
    """
    one, other = (_names(side, rows) for side, rows in zip((base, tuned), _sides(pairs), strict=True))
    common = [name for name in one if name in other]
    if not common:
        raise InputError(
            f"The sides have no metric in common: {listed(one)} in base, {listed(other)} in tuned.",
            fix="Evaluate both with the same metrics.",
        )
    return common, [name for name in [*one, *other] if name not in common]


def chosen(metric: str | None, common: Sequence[str]) -> str:
    """Return the metric the verdict is about: the one asked for, or the first."""
    if metric is None:
        return common[0]
    if metric not in common:
        raise InputError(
            f'The rows have no metric "{metric}" on both sides.{did_you_mean(metric, common)}',
            fix=f"Both have: {listed(common)}.",
        )
    return metric


def measure(name: str, base: Side, tuned: Side, pairs: Sequence[Pair]) -> Measured:
    """Collect one metric's values or counts; a pair that lacks them on a side is left out of this metric.

    Counts of a metric that tunelift has no formula for leave every pair out. Raises InputError where a value or a count
    is no number, counts lack what the formula needs, or the sides disagree on the direction.
    """
    higher = _direction(name, base, tuned)
    if any(name in _counts(row) for item in pairs for row in (item.base, item.tuned)):
        return _measure_counts(name, higher, pairs)
    kept: list[Pair] = []
    values: list[tuple[float, float]] = []
    left_out: list[LeftOut] = []
    for item in pairs:
        both = _value(item.base, name, "base"), _value(item.tuned, name, "tuned")
        if reason := _lacking(f"finite {name}", *map(math.isfinite, both)):
            left_out.append(LeftOut(item.id, reason))
        else:
            kept.append(item)
            values.append(both)
    table = np.array(values, dtype=float).reshape(-1, 2)
    return Measured(name, higher, kept, table[:, 0], table[:, 1], left_out)


def direction_is_assumed(name: str, base: Side, tuned: Side) -> bool:
    """Return whether higher is taken as better for want of knowledge: no side says so, and the name is not known."""
    return not _declared(name, base, tuned) and not direction_is_known(name)


def _measure_counts(name: str, higher_is_better: bool, pairs: Sequence[Pair]) -> Measured:
    formula = METRICS.get(name).from_counts if name in METRICS else None
    if formula is None:
        reason = f"{name} is given by counts, and tunelift has no formula for it"
        empty = np.empty((0,))
        return Measured(name, higher_is_better, [], empty, empty, [LeftOut(item.id, reason) for item in pairs])
    kept: list[Pair] = []
    left_out: list[LeftOut] = []
    for item in pairs:
        if lacking := _lacking(f"counts of {name}", *(name in _counts(row) for row in (item.base, item.tuned))):
            left_out.append(LeftOut(item.id, lacking))
        else:
            kept.append(item)
    one, other = ([_checked_counts(row, name) for row in rows] for rows in _sides(kept))
    columns = {count: number for number, count in enumerate(dict.fromkeys(c for row in [*one, *other] for c in row))}

    def value(totals: Floats) -> Floats:
        return formula(dict(zip(columns, totals.T, strict=True)))

    measured = Measured(name, higher_is_better, kept, _table(one, columns), _table(other, columns), left_out, value)
    _check_formula(measured)
    return measured


def _sides(pairs: Sequence[Pair]) -> tuple[list[Row], list[Row]]:
    return [item.base for item in pairs], [item.tuned for item in pairs]


def _table(rows: Sequence[Mapping[str, float]], columns: Mapping[str, int]) -> Floats:
    """Return counts of shape (rows, columns); a count that a row does not name is 0."""
    table = np.zeros((len(rows), len(columns)))
    for number, row in enumerate(rows):
        for name, count in row.items():
            table[number, columns[name]] = count
    return table


def _check_formula(measured: Measured) -> None:
    if not measured.pairs:
        return
    try:
        _ = measured.aggregates
    except KeyError as error:
        raise InputError(
            f"The counts of {measured.name} lack {error.args[0]!r}, in every row.",
            fix="Rows of another tool must give the counts under tunelift's own names.",
        ) from error


def _counts(row: Row) -> Mapping[str, Mapping[str, float]]:
    counts = row.get("counts") or {}
    if not isinstance(counts, Mapping):
        raise InputError(f'The item "{row["id"]}" has counts = {counts!r}.', fix=_COUNTS)
    return counts


def _checked_counts(row: Row, name: str) -> Mapping[str, float]:
    counts = row["counts"][name]
    finite = isinstance(counts, Mapping) and all(
        isinstance(count, int | float) and math.isfinite(count) for count in counts.values()
    )
    if not finite:
        raise InputError(f'The item "{row["id"]}" has counts of {name} = {counts!r}.', fix=_COUNTS)
    return dict(counts)


def _lacking(what: str, base_has_it: bool, tuned_has_it: bool) -> str | None:
    lacking = [side for side, has in (("base", base_has_it), ("tuned", tuned_has_it)) if not has]
    return f"no {what} for {' and '.join(lacking)}" if lacking else None


def _names(side: Side, rows: Sequence[Row]) -> list[str]:
    declared = (side.info.get("metrics") or {}) if side.info else {}
    present = dict.fromkeys(name for row in rows for name in [*(row.get("metrics") or {}), *_counts(row)])
    return [*(name for name in declared if name in present), *(name for name in present if name not in declared)]


def _value(row: Row, name: str, side: str) -> float:
    value = (row.get("metrics") or {}).get(name)
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise InputError(
            f'The {side} row of item "{row["id"]}" has {name} = {value!r}.', fix="A metric's value must be a number."
        )
    return float(value)


def _direction(name: str, base: Side, tuned: Side) -> bool:
    known = _declared(name, base, tuned)
    if len(known) > 1:
        raise InputError(f'base and tuned disagree on whether a higher {name} is better, in their "metrics.json".')
    return known.pop() if known else direction(name)


def _declared(name: str, base: Side, tuned: Side) -> set[bool]:
    said = [(side.info.get("metrics") or {}).get(name, {}).get("higher_is_better") for side in (base, tuned)]
    return {bool(value) for value in said if value is not None}
