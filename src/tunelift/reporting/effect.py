"""Where a difference, its interval and zero stand on an axis, in per cent of the drawing's width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Effect:
    """One metric's drawing: positions in per cent from the left, tick labels in the metric's own units."""

    name: str
    verdict: str
    point: float
    low: float | None
    high: float | None
    zero: float
    ticks: list[tuple[float, str]]
    lower_is_better: bool


def effect(name: str, entry: Mapping[str, Any], lower_is_better: bool) -> Effect:
    """Lay out one metric of comparison.json on an axis that shows zero and the whole interval."""
    bounds = [bound for bound in entry.get("interval") or [] if bound is not None]
    shown = [0.0, entry["difference"], *bounds]
    span = (max(shown) - min(shown)) or 1.0
    left, width = min(shown) - 0.1 * span, 1.2 * span

    def place(value: float) -> float:
        return float(round(100 * (value - left) / width, 2))

    return Effect(
        name,
        entry["verdict"],
        place(entry["difference"]),
        place(bounds[0]) if len(bounds) == 2 else None,
        place(bounds[1]) if len(bounds) == 2 else None,
        place(0.0),
        [(place(value), label) for value, label in _ticks(left, left + width)],
        lower_is_better,
    )


def _ticks(left: float, right: float) -> list[tuple[float, str]]:
    """Return round values between two ends, two to six of them, zero among them where it lies between."""
    rough = (right - left) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(left / step), math.floor(right / step)
    return [(index * step, _label(index * step, decimals)) for index in range(first, last + 1)]


def _label(value: float, decimals: int) -> str:
    if value == 0:
        return "0"
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
