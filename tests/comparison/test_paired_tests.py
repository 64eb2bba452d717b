"""The tests and intervals against scipy.stats, published values, slow twins and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

from tunelift.comparison import paired_tests


def test_mcnemar_equals_the_binomial_test_for_every_table_up_to_60() -> None:
    for total in range(1, 61):
        rose = np.arange(total + 1)
        exact, mid = paired_tests.mcnemar(rose, total - rose)
        wanted = np.array([stats.binomtest(int(count), total).pvalue for count in rose])
        half = stats.binom.pmf(rose, total, 0.5)
        # The two outcomes as likely as the one seen count by half; at equal counts there is only one.
        assert exact == pytest.approx(wanted, abs=1e-12)
        assert mid == pytest.approx(wanted - np.where(2 * rose == total, half / 2, half), abs=1e-12)


def test_mcnemar_at_the_ends() -> None:
    assert paired_tests.mcnemar(0, 0) == (1.0, 1.0)
    exact, mid = paired_tests.mcnemar(499_000, 501_000)
    asymptotic = 2 * special.ndtr(-2000 / 1_000_000**0.5)
    assert mid == pytest.approx(asymptotic, rel=1e-3)
    assert mid < exact
    assert paired_tests.mcnemar(0, 1_000_000) == (0.0, 0.0)


def test_tango_and_mcnemar_give_the_published_values() -> None:
    # Airway hyper-responsiveness, 21 children, 1 and 7 discordant: Fagerland, Lydersen and Laake 2014.
    low, high = paired_tests.tango_interval(1, 7, 21, 0.95)
    assert (round(float(low), 3), round(float(high), 3)) == (-0.517, -0.026)
    # Complete response of 161 patients, 6 and 16 discordant (Cavo et al. 2012), as in the tests of the R package
    # contingencytables, by the authors of "Statistical Analysis of Contingency Tables" (2017).
    low, high = paired_tests.tango_interval(6, 16, 161, 0.95)
    assert (round(float(low), 4), round(float(high), 4)) == (-0.1240, -0.0054)
    exact, mid = paired_tests.mcnemar(6, 16)
    assert (round(float(exact), 6), round(float(mid), 6)) == (0.052479, 0.034690)


def _score_by_maximisation(rose: int, fell: int, items: int, difference: float) -> float:
    """Tango's statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def negative(q: float) -> float:
        same = 1 - 2 * q - difference
        terms = special.xlogy(rose, q + difference) + special.xlogy(fell, q) + special.xlogy(items - rose - fell, same)
        return -float(terms)

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = optimize.minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return (rose - fell - items * difference) / (items * (2 * q + difference * (1 - difference))) ** 0.5


@pytest.mark.parametrize(
    ("rose", "fell", "items", "level"),
    [
        (1, 7, 21, 0.95),
        (12, 3, 100, 0.95),
        (40, 20, 160, 0.9),
        (0, 5, 30, 0.95),
        (7, 0, 50, 0.99),
        (300, 310, 2000, 0.95),
    ],
)
def test_tango_bounds_are_where_the_score_test_turns(rose: int, fell: int, items: int, level: float) -> None:
    low, high = paired_tests.tango_interval(rose, fell, items, level)
    z = special.ndtri((1 + level) / 2)
    assert _score_by_maximisation(rose, fell, items, float(low)) == pytest.approx(z, abs=1e-4)
    assert _score_by_maximisation(rose, fell, items, float(high)) == pytest.approx(-z, abs=1e-4)


def test_tango_is_antisymmetric_and_stays_within_minus_one_and_one() -> None:
    for items in (1, 2, 5, 17):
        for rose in range(items + 1):
            for fell in range(items + 1 - rose):
                low, high = paired_tests.tango_interval(rose, fell, items, 0.95)
                mirrored = paired_tests.tango_interval(fell, rose, items, 0.95)
                assert -1 <= low <= (rose - fell) / items <= high <= 1
                assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_tango_at_a_million_discordant_pairs_is_the_wald_interval() -> None:
    rose, fell, items = 600_000, 400_000, 2_000_000
    low, high = paired_tests.tango_interval(rose, fell, items, 0.95)
    half = 1.959964 * ((rose + fell - (rose - fell) ** 2 / items) ** 0.5) / items
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-7)


def test_tango_error_rate_and_coverage_in_one_calibration_cell() -> None:
    # n = 100, both rates 0.5, correlation 0.5: each discordant outcome has probability 0.125. Exact size 5.3%.
    generator = np.random.default_rng(20_000)
    counts = generator.multinomial(100, [0.125, 0.125, 0.75], size=20_000)
    low, high = paired_tests.tango_interval(counts[:, 0], counts[:, 1], 100, 0.95)
    wrong = float(np.mean((low > 0) | (high < 0)))
    assert 0.045 < wrong <= 0.056
    # A true difference of 0.15 at the same discordance.
    counts = generator.multinomial(100, [0.2, 0.05, 0.75], size=20_000)
    low, high = paired_tests.tango_interval(counts[:, 0], counts[:, 1], 100, 0.95)
    assert 0.94 <= float(np.mean((low <= 0.15) & (high >= 0.15))) <= 0.965


def test_binary_effect_counts_and_keeps_the_sign() -> None:
    effect = paired_tests.paired_effect(np.array([0.0, 0, 0, 1]), np.array([1.0, 1, 0, 0]), None, 0.95)
    assert (effect.rose, effect.fell, effect.difference) == (2, 1, 0.25)
    assert effect.test == "McNemar mid-p"


def test_graded_effect_holds_scipys_paired_t_interval_and_a_bootstrap() -> None:
    generator = np.random.default_rng(1)
    base, tuned = generator.normal(size=40), generator.normal(0.2, 1, size=40)
    effect = paired_tests.paired_effect(base, tuned, None, 0.9)
    wanted = stats.ttest_rel(tuned, base)
    interval = wanted.confidence_interval(0.9)
    assert effect.interval is not None
    assert effect.p is not None
    assert effect.interval[0] <= interval.low + 1e-12
    assert effect.interval[1] >= interval.high - 1e-12
    assert effect.interval == pytest.approx((interval.low, interval.high), abs=0.05)
    assert wanted.pvalue - 1e-12 <= effect.p < wanted.pvalue + 0.05
    assert effect.difference == pytest.approx(tuned.mean() - base.mean())
    assert effect == paired_tests.paired_effect(base, tuned, None, 0.9)


@pytest.mark.parametrize(
    ("base", "tuned", "reason"),
    [
        ([0.3], [0.5], "a single item"),
        ([0.3, 0.7, 0.1], [0.3, 0.7, 0.1], "same for every item"),
        ([0.3, 0.7, 0.1], [0.4, 0.8, 0.2], "same for every item"),
    ],
)
def test_graded_effects_without_spread_have_no_interval(base: list[float], tuned: list[float], reason: str) -> None:
    effect = paired_tests.paired_effect(np.array(base), np.array(tuned), None, 0.95)
    assert effect.interval is None
    assert effect.p is None
    assert effect.missing is not None
    assert reason in effect.missing
    assert effect.difference == pytest.approx(tuned[0] - base[0])


def test_clusters_of_one_item_are_independent_items() -> None:
    generator = np.random.default_rng(2)
    base, tuned = generator.random(60), generator.random(60)
    clustered = paired_tests.paired_effect(base, tuned, range(60), 0.95)
    graded = paired_tests.paired_effect(base, tuned, None, 0.95)
    assert clustered.clusters == 60
    assert clustered.interval == pytest.approx(graded.interval)
    assert clustered.p == pytest.approx(graded.p)


def test_right_or_wrong_items_in_clusters_are_not_counted_by_mcnemar() -> None:
    base, tuned = np.array([0.0, 1] * 20), np.array([1.0, 1] * 20)
    effect = paired_tests.paired_effect(base, tuned, [index // 4 + index % 2 for index in range(40)], 0.95)
    assert effect.rose is None
    assert effect.p_exact is None


def test_few_clusters_and_clusters_that_agree_give_no_interval() -> None:
    base, tuned = np.array([0.0, 1] * 8), np.array([1.0, 1] * 8)
    few = paired_tests.paired_effect(base, tuned, [index // 4 for index in range(16)], 0.95)
    assert few.interval is None
    assert few.missing == "the items come from 4 clusters, and at least 8 are needed"
    agreeing = paired_tests.paired_effect(base, tuned, [index // 2 for index in range(16)], 0.95)
    assert agreeing.interval is None
    assert "same in every cluster" in (agreeing.missing or "")


def test_holm() -> None:
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([0.6, 0.9]) == [1.0, 1.0]
    assert paired_tests.holm([]) == []
