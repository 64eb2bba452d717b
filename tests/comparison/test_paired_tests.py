"""The tests and intervals against scipy.stats, published values, slow twins and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tunelift.comparison import paired_tests


def test_mcnemar_equals_the_binomial_test() -> None:
    for total in range(61):
        for rose in range(total + 1):
            wanted = stats.binomtest(rose, total).pvalue if total else 1.0
            assert paired_tests.mcnemar(rose, total - rose) == pytest.approx(wanted, abs=1e-12)
    # Complete response of 161 patients (Cavo et al. 2012), as in the tests of the R package contingencytables.
    assert round(paired_tests.mcnemar(6, 16), 6) == 0.052479
    assert paired_tests.mcnemar(0, 1_000_000) == 0.0


def test_binary_effect_counts_and_keeps_the_sign() -> None:
    effect = paired_tests.paired_effect(np.array([0.0, 0, 0, 1]), np.array([1.0, 1, 0, 0]), None, 0.95)
    assert (effect.rose, effect.fell, effect.difference) == (2, 1, 0.25)
    assert effect.test == "exact unconditional test (Suissa and Shuster)"


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
        ([0.3], [0.5], "rest on 1 item, and at least 8 are needed"),
        ([0.3, 0.7, 0.1] * 3, [0.3, 0.7, 0.1] * 3, "same for every item"),
        ([0.3, 0.7, 0.1] * 3, [0.4, 0.8, 0.2] * 3, "same for every item"),
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
    assert "same for every cluster" in (agreeing.missing or "")


def test_holm() -> None:
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([0.6, 0.9]) == [1.0, 1.0]
    assert paired_tests.holm([]) == []
