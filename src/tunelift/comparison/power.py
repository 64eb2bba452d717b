"""What a number of items can show about a right/wrong metric, before anything is measured.

It depends on how many items change their answer at all (the discordance), which is assumed: with the observed one it
would only say the p value again in other words.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from scipy import special

from tunelift.comparison.unconditional import critical_value

DISCORDANCES = (0.1, 0.2, 0.4)
"""Shares of items whose answer changes, assumed beforehand."""

POWER = 0.8
"""The chance of showing a difference that the curve speaks of."""


def chance_to_show(items: int, discordance: float, difference: float, level: float = 0.95) -> float:
    """Return the power: the chance that the interval of a true improvement of `difference` lies above 0.

    `discordance` is the share of items whose answer changes and `difference` the gained minus the lost share, at most
    as large. Exact for independent items and the interval `compare` uses: that excludes 0 where gained - lost is beyond
    the test's critical value times the square root of gained + lost.
    """
    # Counts of changed items beyond 8 standard deviations add nothing that a float would show.
    centre, width = items * discordance, 8 * (items * discordance) ** 0.5 + 8
    changed = np.arange(max(1, int(centre - width)), min(items, int(centre + width)) + 1)
    weight = special.bdtr(changed, items, discordance) - special.bdtr(changed - 1, items, discordance)
    z = critical_value(items, level)
    at_most = np.ceil((changed + z * np.sqrt(changed)) / 2) - 1
    gain_rate = (1 + difference / discordance) / 2
    shown = np.where(at_most < changed, special.bdtrc(np.minimum(at_most, changed), changed, gain_rate), 0.0)
    return float(np.sum(weight * shown))


@cache
def smallest_difference(items: int, discordance: float, level: float = 0.95, power: float = POWER) -> float | None:
    """Return the smallest true difference that `items` items show with the given power.

    None where even a difference as large as the discordance (every change a gain) is shown less often.
    """
    if chance_to_show(items, discordance, discordance, level) < power:
        return None
    low, high = 0.0, discordance
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if chance_to_show(items, discordance, middle, level) >= power else (middle, high)
    return high


def curve(items: int, level: float = 0.95) -> list[dict[str, float | None]]:
    """Return the smallest difference shown with 80% power (None: none) at each discordance, as in comparison.json."""
    return [{"discordance": share, "smallest": smallest_difference(items, share, level)} for share in DISCORDANCES]


def describe(items: int, level: float = 0.95) -> str:
    """Return the curve as a clause: what so many items show with 80% power at each assumed discordance.

    It holds for right/wrong metrics of independent items. Items of one cluster tell less than as many independent ones,
    and what graded items show depends on how their differences spread, which is not known beforehand: for those, name
    the half width of the interval that was found instead.
    """
    points = curve(items, level)
    sizes = _either("none" if point["smallest"] is None else f"{point['smallest']:.2g}" for point in points)
    shares = _either(f"{point['discordance']:.0%}" for point in points)
    shown = f"the smallest difference {items} items show with {POWER:.0%} power is {sizes}"
    return f"{shown} where {shares} of the answers change"


def _either(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} or {last}"
