"""How numbers are written in verdicts and tables."""

from __future__ import annotations

import math


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
