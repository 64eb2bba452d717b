"""The power curve against simulation of what `compare` decides."""

from __future__ import annotations

import numpy as np
import pytest

from tunelift.comparison import power
from tunelift.comparison.unconditional import unconditional_p


@pytest.mark.parametrize(
    ("items", "discordance", "difference"), [(100, 0.25, 0.15), (30, 0.4, 0.3), (1000, 0.1, 0.028)]
)
def test_power_is_how_often_the_interval_lies_above_0(items: int, discordance: float, difference: float) -> None:
    gained, lost = (discordance + difference) / 2, (discordance - difference) / 2
    counts = np.random.default_rng(4).multinomial(items, [gained, lost, 1 - discordance], size=20_000)
    p = {(rose, fell): unconditional_p(rose, fell, items) for rose, fell, _ in set(map(tuple, counts.tolist()))}
    shown = [rose > fell and p[rose, fell] < 0.05 for rose, fell, _ in counts.tolist()]
    assert power.chance_to_show(items, discordance, difference) == pytest.approx(float(np.mean(shown)), abs=0.012)


def test_the_smallest_difference_has_the_power_asked_for() -> None:
    smallest = power.smallest_difference(300, 0.2)
    assert smallest is not None
    assert power.chance_to_show(300, 0.2, smallest) == pytest.approx(0.8, abs=1e-3)
    assert power.smallest_difference(5, 0.4) is None


def test_the_curve_in_words() -> None:
    assert power.describe(300) == (
        "the smallest difference 300 items show with 80% power is 0.05, 0.072 or 0.1 where 10%, 20% or 40% of the "
        "answers change"
    )
    assert "none, 0.19 or 0.3 where" in power.describe(30)


def test_the_curve_has_a_point_for_each_assumed_discordance() -> None:
    curve = power.curve(30)
    assert [point["discordance"] for point in curve] == [0.1, 0.2, 0.4]
    assert curve[0]["smallest"] is None
    assert curve[2]["smallest"] == power.smallest_difference(30, 0.4)
