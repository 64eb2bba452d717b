"""Rows of a table, and the table as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.wording.numbers import decimals, interval_text, p_figure

Entry = Mapping[str, Any]
"""A metric's result, as `MetricResult.to_dict` gives it."""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of equally many cells as lines, their columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def cells(name: str, entry: Entry) -> list[str]:
    """Return a result's name, base, tuned, difference, interval, p and verdict."""
    interval = entry["interval"]
    return [
        f"{name} (lower is better)" if entry["higher_is_better"] is False else name,
        *values(entry),
        interval_text(*interval) if interval else "-",
        p_figure(entry["p_adjusted"]),
        entry["verdict"],
    ]


def values(entry: Entry) -> tuple[str, str, str]:
    """Return base, tuned and difference, with as many decimals as the interval deserves."""
    interval = entry["interval"]
    places = max(3, decimals(interval[1] - interval[0])) if interval else 3
    return figure(entry["base"], places), figure(entry["tuned"], places), figure(entry["difference"], places, "+")


def figure(value: float | None, places: int, sign: str = "-") -> str:
    """Return a number with so many decimals, and "+" for a sign where that is asked for; `-` where there is none."""
    return "-" if value is None else f"{value:{sign}.{places}f}"
