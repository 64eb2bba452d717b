"""The unconditional exact test and its interval against enumeration of every table, published values and each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from tunelift.comparison import unconditional
from tunelift.comparison.unconditional import unconditional_interval, unconditional_p


def tables(items: int) -> list[tuple[int, int]]:
    return [(rose, fell) for rose, fell in itertools.product(range(items + 1), repeat=2) if rose + fell <= items]


def chances(items: int, rises: float, falls: float) -> np.ndarray:
    """The probability of every table, in the order of `tables`."""
    counts = [(rose, fell, items - rose - fell) for rose, fell in tables(items)]
    return stats.multinomial.pmf(counts, items, [rises, falls, max(0.0, 1 - rises - falls)])


@pytest.mark.parametrize("items", [1, 4, 5, 8, 16, 21])
def test_p_is_the_largest_chance_of_a_z_as_far_from_0(items: int) -> None:
    z = np.array([abs(rose - fell) / max(rose + fell, 1) ** 0.5 for rose, fell in tables(items)])
    over_discordances = np.array([chances(items, share / 2, share / 2) for share in np.linspace(0, 1, 2001)])
    for table, found in zip(tables(items), z.tolist(), strict=True):
        wanted = 1.0 if found == 0 else over_discordances[:, z >= found - 1e-9].sum(axis=1).max()
        assert unconditional_p(*table, items) == pytest.approx(wanted, abs=3e-5), table


@pytest.mark.parametrize("items", [3, 8, 13])
def test_no_discordance_and_no_true_difference_is_wrong_more_often_than_said(items: int) -> None:
    p = np.array([unconditional_p(*table, items) for table in tables(items)])
    low, high = np.array([unconditional_interval(*table, items, 0.95) for table in tables(items)]).T
    assert np.array_equal((low > 0) | (high < 0), p < 0.05)
    size = max(chances(items, share / 2, share / 2)[p < 0.05].sum() for share in np.linspace(0, 1, 401))
    assert size <= 0.05
    for difference in np.linspace(-0.95, 0.95, 39):
        for rarer in (1 - abs(difference)) / 2 * np.sin(np.linspace(0, np.pi / 2, 25)) ** 2:
            weights = chances(items, rarer + max(0, difference), rarer + max(0, -difference))
            assert weights[(low <= difference) & (difference <= high)].sum() >= 0.95 - 1e-6


@pytest.mark.parametrize("items", [4, 5, 8, 16, 50, 300, 1000, 2000, 2001, 20_000, 200_000])
def test_the_size_at_the_worst_discordance_is_at_most_5_percent(items: int) -> None:
    z = unconditional.critical_value(items, 0.95)
    changed = np.arange(items + 1)
    least = np.ceil((changed + z * np.sqrt(changed)) / 2 - 1e-9)
    chance = np.where((least <= changed) & (changed > 0), 2 * stats.binom.sf(least - 1, changed, 0.5), 0.0)
    worst = 0.0
    for share in np.concatenate([np.geomspace(0.5 / items, 1, 300), 1 - np.geomspace(1 / items, 0.5, 40)]):
        reach = 8 * (items * share * (1 - share)) ** 0.5 + 8
        near = changed[max(0, int(items * share - reach)) : int(items * share + reach) + 1]
        worst = max(worst, float(np.sum(stats.binom.pmf(near, items, share) * chance[near])))
    assert worst <= 0.0500005


def test_the_examples_that_two_rules_judged_differently() -> None:
    # 6 gained and 15 lost of 100: Tango's interval excluded 0, mid-p was 0.052. Four of four: "better" at p 0.0625.
    low, high = unconditional_interval(6, 15, 100, 0.95)
    assert low < -0.09 < 0 < high
    assert unconditional_p(6, 15, 100) == pytest.approx(0.0569, abs=1e-4)
    assert unconditional_p(4, 0, 4) == 2 * 0.5**4
    assert unconditional_interval(4, 0, 4, 0.95)[0] < 0


def test_published_values() -> None:
    # 1 and 0 discordant of 14, in the tests of contingencytables (R, by Fagerland, Lydersen and Laake): 0.542071, of
    # which 0.0001 is a correction (Berger and Boos) that is not made here.
    assert unconditional_p(1, 0, 14) == pytest.approx(0.542071 - 0.0001, abs=2e-6)
    # Tango's score limits of 1 and 7 of 21 (Fagerland et al. 2014), and of 6 and 16 of 161 (contingencytables, R).
    normal = float(special.ndtri(0.975))
    for rose, fell, items, wanted in ((1, 7, 21, (-0.517, -0.026)), (6, 16, 161, (-0.124, -0.005))):
        low = unconditional.score_limit(rose, fell, items, normal)
        high = -unconditional.score_limit(fell, rose, items, normal)
        assert (round(low, 3), round(high, 3)) == wanted


def _score_by_maximisation(rose: int, fell: int, items: int, difference: float) -> float:
    """Tango's statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def negative(q: float) -> float:
        same = 1 - 2 * q - difference
        terms = special.xlogy(rose, q + difference) + special.xlogy(fell, q) + special.xlogy(items - rose - fell, same)
        return -float(terms)

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = optimize.minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return (rose - fell - items * difference) / (items * (2 * q + difference * (1 - difference))) ** 0.5


@pytest.mark.parametrize(("rose", "fell", "items"), [(1, 7, 21), (12, 3, 100), (0, 5, 30), (300, 310, 2000)])
def test_score_limits_are_where_the_score_test_turns(rose: int, fell: int, items: int) -> None:
    low = unconditional.score_limit(rose, fell, items, 1.96)
    assert _score_by_maximisation(rose, fell, items, low) == pytest.approx(1.96, abs=1e-4)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))),
       st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))  # fmt: skip
def test_interval_and_p_agree_and_mirror(table: tuple[int, int, int], level: float) -> None:
    rose, other, items = table
    fell = min(other, items - rose)
    low, high = unconditional_interval(rose, fell, items, level)
    assert -1 <= low <= (rose - fell) / items <= high <= 1
    assert ((low > 0) or (high < 0)) == (unconditional_p(rose, fell, items) < 1 - level)
    assert unconditional_interval(fell, rose, items, level) == (-high, -low)


def test_beyond_2000_items_the_exact_interval_goes_on() -> None:
    exact, beyond = unconditional_interval(260, 200, 2000, 0.95), unconditional_interval(260, 200, 2001, 0.95)
    assert beyond == pytest.approx(exact, abs=3e-4)
    assert unconditional_p(260, 200, 2000) == pytest.approx(unconditional_p(260, 200, 2001), rel=0.02)
    low, high = unconditional_interval(600_000, 400_000, 2_000_000, 0.95)
    half = 1.959964 * ((1_000_000 - 200_000**2 / 2_000_000) ** 0.5) / 2_000_000
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), rel=5e-3)
