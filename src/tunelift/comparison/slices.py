"""The headline metric by kinds of items: for each value of a column by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.effect import Effect
from tunelift.comparison.effects import judged_together
from tunelift.comparison.measured import Measured
from tunelift.comparison.pairing import Pair
from tunelift.comparison.results import MetricResult
from tunelift.comparison.verdict import Verdict
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import as_text

MOST_VALUES = 20
"""Further values of a column, the rarest, are one slice together."""

MOST_NUMBERS = 10
"""A column of numbers with more different ones is cut into quartiles."""

FEWEST_ITEMS = 8
"""A slice with fewer items gets no verdict: so few say little about others of their kind."""

OTHERS, NONE = "(others)", "(none)"

Indices = NDArray[np.intp]


def slice_results(measured: Measured, level: float, columns: Sequence[str] = ()) -> dict[str, dict[str, MetricResult]]:
    """Return {column: {value: result}} for each column of the rows' "slices", and for `columns` besides.

    Those are keys of the rows whose values are text, numbers or booleans; "reference" gives a slice to each label. The
    verdicts follow from p after Holm's correction over all slices of all columns. Raises InputError for a column that
    no row has, that holds no plain values, or that differs between the two sides of an item.
    """
    parts = []
    for column, values in _columns(measured.pairs, columns).items():
        parts += [(column, name, measured.over(index)) for name, index in _slices(values)]
    together = {str(number): part for number, (_, _, part) in enumerate(parts) if part.items >= FEWEST_ITEMS}
    judged = judged_together(together, level, "slices")
    results: dict[str, dict[str, MetricResult]] = {}
    for number, (column, name, part) in enumerate(parts):
        results.setdefault(column, {})[name] = judged.get(str(number)) or _too_few(part)
    return results


def _columns(pairs: Sequence[Pair], asked: Sequence[str]) -> dict[str, list[str]]:
    """Return each column's values as text, in the order of the items."""
    found = {}
    for column in dict.fromkeys([*_named(pairs), *asked]):
        values = [_value_of(item, column) for item in pairs]
        if any(values):
            found[column] = values
        elif column in asked:
            plain = [key for key, value in pairs[0].base.items() if isinstance(value, str | int | float)]
            known = [*_named(pairs), *plain]
            raise InputError(
                f'No row has a value of "{column}" to slice by.{did_you_mean(column, known)}',
                fix=f"Rows have: {listed(known)}.",
            )
    return found


def _named(pairs: Sequence[Pair]) -> list[str]:
    """Return the columns that the rows themselves name, in the order of their first appearance."""
    rows = (row for item in pairs for row in (item.base, item.tuned))
    return list(dict.fromkeys(column for row in rows for column in row.get("slices") or {}))


def _value_of(item: Pair, column: str) -> str:
    """Return an item's value as text, empty where neither side has one."""
    named = ((row, row.get("slices") or {}) for row in (item.base, item.tuned))
    known = {_text(own[column] if column in own else row.get(column), column) for row, own in named} - {""}
    if len(known) > 1:
        raise InputError(
            f'"{column}" of the item "{item.id}" differs between base and tuned: {listed(sorted(known))}.',
            fix="Slices are by what belongs to the item, not to a model's answer.",
        )
    return known.pop() if known else ""


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if column == "reference" and not isinstance(value, str):
        return as_text(value)
    if not isinstance(value, str | int | float):
        raise InputError(
            f'"{column}" holds {type(value).__name__} and cannot be a slice.',
            fix='Text, numbers and booleans can; write such a value below the rows\' "slices".',
        )
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _slices(values: Sequence[str]) -> Iterator[tuple[str, Indices]]:
    """Yield each slice's name and the indices of its items: what is common first, the unknown last."""
    numbers = _numbers(values)
    cut = _by_value(values) if numbers is None else _quartiles(values, numbers)
    yield from ((name, np.array(index, dtype=np.intp)) for name, index in cut.items())
    without = [index for index, value in enumerate(values) if not value]
    if without:
        yield NONE, np.array(without, dtype=np.intp)


def _numbers(values: Sequence[str]) -> dict[int, float] | None:
    """Return {index: number} where a column holds many different numbers and nothing else; None otherwise."""
    try:
        numbers = {index: float(value) for index, value in enumerate(values) if value}
    except ValueError:
        return None
    finite = all(map(math.isfinite, numbers.values()))
    return numbers if finite and len(set(numbers.values())) > MOST_NUMBERS else None


def _by_value(values: Sequence[str]) -> Mapping[str, list[int]]:
    counts = Counter(filter(None, values))
    common = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_VALUES]
    cut: dict[str, list[int]] = {value: [] for value in common}
    others = [index for index, value in enumerate(values) if value and value not in cut]
    for index, value in enumerate(values):
        if value in cut:
            cut[value].append(index)
    return cut | ({OTHERS: others} if others else {})


def _quartiles(values: Sequence[str], numbers: Mapping[int, float]) -> Mapping[str, list[int]]:
    """Cut at the quartiles, equal numbers together; the names are the smallest and the largest number inside."""
    bounds = np.quantile(list(numbers.values()), [0.25, 0.5, 0.75])
    parts: list[list[int]] = [[], [], [], []]
    for index in sorted(numbers, key=numbers.__getitem__):
        parts[int(np.searchsorted(bounds, numbers[index]))].append(index)
    return {f"{values[part[0]]} to {values[part[-1]]}": part for part in parts if part}


def _too_few(part: Measured) -> MetricResult:
    """Return the values of a slice that is too small for a verdict."""
    base, tuned = part.aggregates if part.items else (math.nan, math.nan)
    count = part.items
    missing = f"only {count} item{'s' * (count != 1)}"
    effect = Effect(tuned - base, "none", missing=missing, one_sided=part.one_sided)
    verdict = Verdict("inconclusive", f"{missing}.")
    return MetricResult(part.name, count, part.higher_is_better, base, tuned, effect, None, verdict)
