"""What a number of items can show about a right/wrong metric, before anything is measured.

It depends on how many items change their answer at all (the discordance), which is assumed: with the observed one it
would only say the p value again in other words.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import special

DISCORDANCES = (0.1, 0.2, 0.4)


def chance_to_show(items: int, discordance: float, difference: float, level: float = 0.95) -> float:
    """Return the power: the chance that the interval of a true improvement of `difference` lies above 0.

    `discordance` is the share of items whose answer changes and `difference` the gained minus the lost share, at most
    as large. Exact for independent items and the interval `compare` uses: that excludes 0 where gained - lost is beyond
    z times the square root of gained + lost.
    """
    # Counts of changed items beyond 8 standard deviations add nothing that a float would show.
    centre, width = items * discordance, 8 * (items * discordance) ** 0.5 + 8
    changed = np.arange(max(1, int(centre - width)), min(items, int(centre + width)) + 1)
    weight = special.bdtr(changed, items, discordance) - special.bdtr(changed - 1, items, discordance)
    z = special.ndtri((1 + level) / 2)
    at_most = np.floor((changed + z * np.sqrt(changed)) / 2)
    gain_rate = (1 + difference / discordance) / 2
    shown = np.where(at_most < changed, special.bdtrc(np.minimum(at_most, changed), changed, gain_rate), 0.0)
    return float(np.sum(weight * shown))


def smallest_difference(items: int, discordance: float, level: float = 0.95, power: float = 0.8) -> float | None:
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


def describe(items: int, level: float = 0.95) -> str:
    """Return the curve as a clause: what so many items show with 80% power at each assumed discordance."""
    smallest = [smallest_difference(items, discordance, level) for discordance in DISCORDANCES]
    sizes = _either("none" if value is None else f"{value:.2g}" for value in smallest)
    shares = _either(f"{discordance:.0%}" for discordance in DISCORDANCES)
    return f"the smallest difference {items} items show with 80% power is {sizes} where {shares} of the answers change"


def _either(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} or {last}"
