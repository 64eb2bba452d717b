"""Where dots, intervals and the line to compare with stand on an axis, in per cent of the drawing's width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Bounds = Sequence[float | None] | None


@dataclass(frozen=True, slots=True)
class Mark:
    """What one line of a drawing shows, in the metric's own units."""

    name: str
    values: Sequence[float]
    interval: Bounds = None
    verdict: str = "none"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line laid out: dots and the interval's ends in per cent from the left."""

    name: str
    note: str
    verdict: str
    points: list[float]
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Drawing:
    """Lines over one axis; `compared` is where the dashed line stands (zero, or the tuned model's value)."""

    lines: list[Line]
    ticks: list[tuple[float, str]]
    compared: float


@dataclass(frozen=True, slots=True)
class _Axis:
    left: float
    width: float

    def place(self, value: float) -> float:
        return float(round(100 * (value - self.left) / self.width, 2))


def differences(marks: Sequence[Mark]) -> Drawing:
    """Lay out differences with their intervals on an axis that shows zero and every interval whole."""
    return _drawing(marks, 0.0, signed=True)


def values(marks: Sequence[Mark], compared: float) -> Drawing:
    """Lay out values beside the one they are compared with, on an axis that begins or ends at zero."""
    return _drawing(marks, compared, signed=False)


def _drawing(marks: Sequence[Mark], compared: float, *, signed: bool) -> Drawing:
    shown = [0.0, compared, *(value for mark in marks for value in (*mark.values, *_known(mark.interval)))]
    span = (max(shown) - min(shown)) or 1.0
    axis = _Axis(min(shown) - 0.1 * span, 1.2 * span)
    ticks = [(axis.place(value), label) for value, label in _ticks(axis, signed=signed)]
    lines = []
    for mark in marks:
        bounds = [axis.place(bound) for bound in _known(mark.interval)]
        low, high = bounds if len(bounds) == 2 else (None, None)
        lines.append(Line(mark.name, mark.note, mark.verdict, list(map(axis.place, mark.values)), low, high))
    return Drawing(lines, ticks, axis.place(compared))


def _known(interval: Bounds) -> list[float]:
    return [bound for bound in interval or [] if bound is not None]


def _ticks(axis: _Axis, *, signed: bool) -> Iterable[tuple[float, str]]:
    """Return round values between the axis's ends, two to seven of them, zero among them where it lies between."""
    rough = axis.width / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(axis.left / step), math.floor((axis.left + axis.width) / step)
    form = f"{'+' if signed else '-'}.{decimals}f"
    values = [index * step for index in range(first, last + 1)]
    return [(value, f"{value:{form}}".replace("-", "\N{MINUS SIGN}") if value else "0") for value in values]
