"""How numbers are written in verdicts and tables, and the rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
"""A metric's result, as `MetricResult.to_dict` gives it."""


def decimals(width: float) -> int:
    """Return how many decimals show two digits of an interval of this width: 2 at least, 6 at most."""
    return 3 if width <= 0 else min(6, max(2, 1 - math.floor(math.log10(width))))


def interval_text(low: float, high: float) -> str:
    """Return `+0.45 to +0.57`, with as many decimals as the width deserves, never rounded onto 0."""
    places = decimals(high - low)
    while places < 6 and any(value != 0 and round(value, places) == 0 for value in (low, high)):
        places += 1
    return f"{low:+.{places}f} to {high:+.{places}f}"


def p_figure(p: float | None) -> str:
    """Return `0.031` or `< 0.0001`, as in a table's column of p; `-` where there is none."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def p_text(p: float) -> str:
    """Return `p = 0.031`, or `p < 0.0001`."""
    return f"p {p_figure(p)}" if p < 0.0001 else f"p = {p_figure(p)}"


def level_text(level: float) -> str:
    """Return `95%`, `97.5%` or `99.9%`: all digits of the level, since a rounded one may read as 100%."""
    return f"{round(100 * level, 10):.12g}%"


def aligned(rows: Sequence[Sequence[str]], sides: str = "<") -> str:
    """Return rows of equally many cells as lines, their columns under each other.

    `sides` says where the cells of each column stand, as format does ("<" or ">"); the last goes on for the rest.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    forms = [f"{side}{width}" for side, width in zip(sides.ljust(len(widths), sides[-1]), widths, strict=True)]
    lines = ("  ".join(f"{cell:{form}}" for cell, form in zip(row, forms, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


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
