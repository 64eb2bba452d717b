"""The metrics both sides have: their names, directions and values per item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunelift.comparison.paired_tests import Effect, Floats, paired_effect
from tunelift.comparison.pairing import LeftOut, Pair, Row, Side, clusters_of
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.metrics import direction


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric over the pairs that have it on both sides: values of shape (pairs,), and who was left out."""

    name: str
    higher_is_better: bool
    pairs: list[Pair]
    base: Floats
    tuned: Floats
    left_out: list[LeftOut]

    @property
    def aggregates(self) -> tuple[float, float]:
        """The metric's value on each side over these pairs."""
        return float(self.base.mean()), float(self.tuned.mean())


def effect_of(measured: Measured, level: float) -> Effect:
    """Return the effect by the test that fits the metric and the items."""
    return paired_effect(measured.base, measured.tuned, clusters_of(measured.pairs), level)


def common_metrics(base: Side, tuned: Side, pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """Return the metrics both sides have, in base's order, and those only one side has.

    Raises InputError where there is none in common.
    """
    one, other = _names(base, [item.base for item in pairs]), _names(tuned, [item.tuned for item in pairs])
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
    """Collect one metric's values; a pair without a finite value on both sides is left out of this metric.

    Raises InputError where a value is no number, or where the sides disagree on the direction.
    """
    kept: list[Pair] = []
    values: list[tuple[float, float]] = []
    left_out: list[LeftOut] = []
    for item in pairs:
        both = _value(item.base, name, "base"), _value(item.tuned, name, "tuned")
        lacking = [side for side, value in zip(("base", "tuned"), both, strict=True) if not math.isfinite(value)]
        if lacking:
            left_out.append(LeftOut(item.id, f"no finite {name} for {' and '.join(lacking)}"))
        else:
            kept.append(item)
            values.append(both)
    table = np.array(values, dtype=float).reshape(-1, 2)
    return Measured(name, _direction(name, base, tuned), kept, table[:, 0], table[:, 1], left_out)


def _names(side: Side, rows: Sequence[Row]) -> list[str]:
    declared = (side.info.get("metrics") or {}) if side.info else {}
    present = dict.fromkeys(name for row in rows for name in row["metrics"])
    return [*(name for name in declared if name in present), *(name for name in present if name not in declared)]


def _value(row: Row, name: str, side: str) -> float:
    value = row["metrics"].get(name)
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise InputError(
            f'The {side} row of item "{row["id"]}" has {name} = {value!r}.', fix="A metric's value must be a number."
        )
    return float(value)


def _direction(name: str, base: Side, tuned: Side) -> bool:
    said = [(side.info.get("metrics") or {}).get(name, {}).get("higher_is_better") for side in (base, tuned)]
    known = {bool(value) for value in said if value is not None}
    if len(known) > 1:
        raise InputError(f'base and tuned disagree on whether a higher {name} is better, in their "metrics.json".')
    return known.pop() if known else direction(name)
