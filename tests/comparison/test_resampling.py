"""Resampled sums, the mean's intervals and the corpus effect, against slow twins, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tunelift.comparison import draws, means
from tunelift.comparison.draws import RESAMPLES, Floats
from tunelift.comparison.resampling import corpus_effect

GENERATOR = np.random.default_rng(7)


def test_bootstrap_weights_are_poisson_and_swaps_are_fair() -> None:
    weights = draws.bootstrap_sums(np.eye(40)).T
    assert weights.shape == (RESAMPLES, 40)
    for count in range(5):
        assert np.mean(weights == count) == pytest.approx(stats.poisson.pmf(count, 1), abs=0.004)
    assert abs(np.corrcoef(weights.T) - np.eye(40)).max() < 0.05
    swaps = draws.swapped_sums(np.eye(40)).T
    assert set(np.unique(swaps)) == {0, 1}
    assert abs(np.mean(swaps, axis=0) - 0.5).max() < 0.02


def test_sums_are_the_same_in_blocks_of_any_size_of_columns() -> None:
    values = GENERATOR.normal(size=(3000, 3))
    together = draws.bootstrap_sums(values)
    assert draws.bootstrap_sums(values[:, 1:2])[0] == pytest.approx(together[1])
    assert together[0].std() == pytest.approx(np.sum(values[:, 0] ** 2) ** 0.5, rel=0.03)


def test_a_single_unit_and_more_units_than_are_summed_at_a_time_can_be_drawn() -> None:
    assert draws.bootstrap_sums(np.ones((1, 1))).mean() == pytest.approx(1, abs=0.05)
    units = draws._UNITS + 100
    parts = np.zeros((units, 2))
    parts[: draws._UNITS, 0] = parts[draws._UNITS :, 1] = 1
    first, second = draws.swapped_sums(parts)
    assert (first.mean(), second.mean()) == pytest.approx((draws._UNITS / 2, 50), rel=0.01)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_t_of_equal_clusters_is_scipys_over_their_means() -> None:
    differences = GENERATOR.normal(0.1, 1, size=(5, 6))
    differences = np.concatenate([differences, 0.2 - differences])  # symmetric: skewness asks for no caution
    extent = means.t_extent(means.mean_of(differences.sum(axis=1)[None], np.full(10, 6.0)), 0.9)
    wanted = stats.ttest_1samp(differences.mean(axis=1), 0)
    interval = wanted.confidence_interval(0.9)
    assert (extent.low[0], extent.high[0], extent.p[0]) == pytest.approx((interval.low, interval.high, wanted.pvalue))


def test_degrees_of_freedom_equal_the_matrix_form_and_fall_with_unequal_sizes() -> None:
    sizes = np.array([2.0, 5, 10, 20, 40, 2, 5, 10, 9])
    share = sizes / sizes.sum()
    centre = np.eye(9) - np.outer(share, np.ones(9))
    matrix = np.diag(1 / (1 - share)) @ centre @ np.diag(share**2) @ centre.T
    wanted = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
    assert means._freedom(share) == pytest.approx(wanted)
    assert wanted < 8
    assert means._freedom(np.full(9, 1 / 9)) == pytest.approx(8)


def test_clusters_of_unequal_sizes_do_not_reject_a_true_null_too_often() -> None:
    sizes = np.array([30.0, 30, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
    sums = sizes * GENERATOR.normal(size=(2000, 12)) + sizes**0.5 * GENERATOR.normal(size=(2000, 12))
    extent = means.t_extent(means.mean_of(sums, sizes), 0.95)
    assert np.mean((extent.low > 0) | (extent.high < 0)) <= 0.055


def test_the_studentised_bootstrap_of_each_resample_equals_a_plain_one() -> None:
    sums, sizes = GENERATOR.exponential(size=9), np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5])
    residual = sums - sums.sum() / sizes.sum() * sizes
    found = means._studentised(residual[None], sizes)[0]
    weights = draws.bootstrap_sums(np.eye(9)).T
    for resample in (0, 1, 17, 4321):
        times = np.repeat(np.arange(9), weights[resample].astype(int))
        mean = residual[times].sum() / sizes[times].sum()
        spread = np.sum((residual[times] - mean * sizes[times]) ** 2) * len(times) / (len(times) - 1)
        assert found[resample] == pytest.approx(mean * sizes[times].sum() / spread**0.5)


def test_units_of_one_size_take_a_shorter_way_to_the_same_t() -> None:
    residual = GENERATOR.normal(size=(2, 20))
    residual -= residual.mean(axis=1, keepdims=True)
    nearly = np.full(20, 3.0)
    nearly[0] += 1e-12
    assert means._studentised(residual, np.full(20, 3.0)) == pytest.approx(means._studentised(residual, nearly))


def test_the_interval_excludes_0_just_where_p_is_below_5_percent() -> None:
    sums, sizes = GENERATOR.exponential(size=(600, 25)) - 0.7, np.ones(25)
    mean = means.mean_of(sums, sizes)
    extent = means.wider(means.t_extent(mean, 0.95), means.bootstrap_extent(mean, sums, sizes, 0.95))
    outside = (extent.low > 0) | (extent.high < 0)
    assert 80 < outside.sum() < 500
    assert np.array_equal(outside, extent.p <= 0.05)


def test_a_p_beyond_what_resamples_can_resolve_is_the_t_tests() -> None:
    sums = GENERATOR.normal(1, 0.1, size=(1, 200))
    mean = means.mean_of(sums, np.ones(200))
    t = means.t_extent(mean, 0.95)
    p = means.wider(t, means.bootstrap_extent(mean, sums, np.ones(200), 0.95)).p
    assert p[0] == t.p[0] < 1e-50


def test_swapping_gives_the_exact_permutation_p() -> None:
    differences = np.array([0.4, 0.1, 0.3, -0.2, 0.5, 0.2, 0.0, 0.3])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    wanted = np.mean(abs(differences @ signs) >= differences.sum() - 1e-9)
    assert means.swap_p(differences[None])[0] == pytest.approx(wanted, abs=0.005)


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[:, 0] / sums[:, 1])


def _counts(items: int, rate: float) -> Floats:
    total = GENERATOR.integers(1, 9, items).astype(float)
    return np.stack([GENERATOR.binomial(total.astype(int), rate), total], axis=1).astype(float)


def test_the_corpus_effect_of_a_mean_is_the_graded_one_nearly() -> None:
    base, tuned = GENERATOR.normal(size=200), GENERATOR.normal(0.3, 1, size=200)
    rows = [np.stack([side, np.ones(200)], axis=1) for side in (base, tuned)]
    effect = corpus_effect(rows[0], rows[1], _ratio, None, 0.95)
    wanted = stats.ttest_rel(tuned, base)
    interval = wanted.confidence_interval(0.95)
    assert effect.difference == pytest.approx(tuned.mean() - base.mean())
    assert effect.interval == pytest.approx((interval.low, interval.high), abs=0.02)
    assert effect.interval is not None
    assert effect.interval[0] <= interval.low + 1e-9
    assert effect.p == pytest.approx(wanted.pvalue, abs=0.003)
    assert effect.p_permutation == pytest.approx(wanted.pvalue, abs=0.005)


def test_the_corpus_effect_is_signed_seeded_and_sees_a_difference() -> None:
    base, tuned = _counts(150, 0.5), _counts(150, 0.7)
    effect, mirrored = corpus_effect(base, tuned, _ratio, None, 0.95), corpus_effect(tuned, base, _ratio, None, 0.95)
    assert effect == corpus_effect(base, tuned, _ratio, None, 0.95)
    assert effect.interval is not None
    assert mirrored.interval is not None
    assert effect.interval[0] > 0
    assert effect.interval == pytest.approx((-mirrored.interval[1], -mirrored.interval[0]), abs=1e-9)
    assert effect.p is not None
    assert effect.p < 1e-3
    assert effect.p_permutation == pytest.approx(1 / (RESAMPLES + 1))


def test_clusters_of_a_corpus_metric_are_the_units() -> None:
    base, tuned = _counts(20, 0.5), _counts(20, 0.55)
    names = [index // 3 for index in range(60)]
    spread = corpus_effect(np.repeat(base, 3, axis=0), np.repeat(tuned, 3, axis=0), _ratio, names, 0.95)
    wanted = corpus_effect(3 * base, 3 * tuned, _ratio, None, 0.95)
    assert spread.clusters == 20
    assert spread.interval == pytest.approx(wanted.interval)
    few = corpus_effect(base, tuned, _ratio, [index // 5 for index in range(20)], 0.95)
    assert few.interval is None
    assert few.missing == "the items come from 4 clusters, and at least 8 are needed"


@pytest.mark.parametrize(
    ("items", "reason"), [(1, "rest on 1 item, and at least 8"), (12, "whichever item is left out")]
)
def test_a_corpus_effect_without_spread_has_no_interval(items: int, reason: str) -> None:
    base, tuned = np.tile([1.0, 4.0], (items, 1)), np.tile([3.0, 4.0], (items, 1))
    effect = corpus_effect(base, tuned, _ratio, None, 0.95)
    assert effect.difference == pytest.approx(0.5)
    assert effect.interval is None
    assert reason in (effect.missing or "")
