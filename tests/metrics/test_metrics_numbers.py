"""Metrics of numbers equal scikit-learn's and scipy's; where those have no number, what is said here holds."""

from __future__ import annotations

import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from tunelift.comparison.resampling import items_effect
from tunelift.metrics import METRICS, Answer, aggregate, score_answer
from tunelift.metrics.numbers import pearson, r2, ranks, spearman

NAMES = ["rmse", "mae", "r2", "pearson", "spearman"]


def values(predicted: Any, wanted: Any) -> dict[str, float]:
    """Return what is aggregated of rows of predictions and references, (items, outputs)."""
    all_of = [METRICS.get(name) for name in NAMES]
    texts = [
        [" ".join(map(repr, row)) for row in np.asarray(side, dtype=float).tolist()] for side in (predicted, wanted)
    ]
    rows = [score_answer(Answer(a, b), all_of) for a, b in zip(*texts, strict=True)]
    return {metric.name: aggregate(metric, rows) for metric in all_of}


def of_libraries(predicted: Any, wanted: Any) -> dict[str, float]:
    outputs = list(zip(predicted.T, wanted.T, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "rmse": sk.root_mean_squared_error(wanted, predicted),
            "mae": sk.mean_absolute_error(wanted, predicted),
            "r2": sk.r2_score(wanted, predicted),
            "pearson": float(np.mean([stats.pearsonr(*pair).statistic for pair in outputs])),
            "spearman": float(np.mean([stats.spearmanr(*pair).statistic for pair in outputs])),
        }


def test_a_thousand_sets_equal_the_libraries() -> None:
    draw = np.random.default_rng(0)
    for case in range(1000):
        shape = (int(draw.integers(3, 60)), int(draw.integers(1, 4)))
        scale, shift = 10.0 ** draw.integers(-3, 5), 10.0 ** draw.integers(-3, 4)
        wanted = draw.normal(size=shape)
        predicted = wanted * draw.normal() + draw.normal(size=shape)
        if case % 3 == 0:  # with many that are equal
            wanted, predicted = wanted.round(), predicted.round()
            if min(np.ptp(wanted, axis=0).min(), np.ptp(predicted, axis=0).min()) == 0:
                continue
        wanted, predicted = wanted * scale + shift, predicted * scale + shift
        found, expected = values(predicted, wanted), of_libraries(predicted, wanted)
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-9), case


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=20),
    st.sampled_from([1.0, 1e-3, 1e8]),
)
@settings(max_examples=200, deadline=None)
def test_values_are_numbers_within_their_bounds(pairs: list[tuple[float, float]], scale: float) -> None:
    predicted, wanted = (np.array(side)[:, None] * scale for side in zip(*pairs, strict=True))
    found = values(predicted, wanted)
    assert all(map(math.isfinite, found.values()))
    assert found["rmse"] >= found["mae"] * (1 - 1e-9) - 1e-150
    assert all(abs(found[name]) <= 1 + 1e-9 for name in ("pearson", "spearman"))
    assert found["r2"] <= 1


@pytest.mark.parametrize(("predicted", "wanted"), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([2, 2], [2, 2])])
def test_what_does_not_vary_orders_nothing(predicted: list[float], wanted: list[float]) -> None:
    found = values(*(np.array(side, dtype=float)[:, None] + 0.1 for side in (predicted, wanted)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(stats.pearsonr(predicted, wanted).statistic)
    assert (found["pearson"], found["spearman"]) == (0, 0)
    assert found["r2"] == pytest.approx(sk.r2_score(wanted, predicted))


def test_an_item_that_a_selection_has_twice_is_two_items() -> None:
    draw = np.random.default_rng(1)
    for _ in range(100):
        predicted, wanted = draw.normal(size=(2, 12)).round(1)
        times = draw.poisson(1.0, size=(5, 12)).astype(float)
        for own, expected in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
            for weights, found in zip(times, own(predicted, wanted, times), strict=True):
                several = [np.repeat(side, weights.astype(int)) for side in (predicted, wanted)]
                if min(len(set(side)) for side in several) > 1:
                    assert found == pytest.approx(expected(*several).statistic, abs=1e-9)
        for weights, found in zip(times, r2(predicted, wanted, times), strict=True):
            several = [np.repeat(side, weights.astype(int)) for side in (wanted, predicted)]
            if len(several[0]) > 1:
                assert found == pytest.approx(sk.r2_score(*several))
        (alone,) = ranks(predicted, np.ones((1, 12)))
        assert alone + 6.5 == pytest.approx(stats.rankdata(predicted))


def simulated(draw: Any, items: int, noise: tuple[float, float]) -> tuple[Any, Any]:
    wanted = draw.normal(size=items)
    return tuple(np.column_stack([wanted + draw.normal(size=items) * own, wanted]) for own in noise)  # type: ignore[return-value]


@pytest.mark.parametrize("own", [pearson, spearman, r2])
def test_intervals_of_a_difference_hold_the_truth_about_as_often_as_they_say(own: Any) -> None:
    def value(table: Any, weights: Any) -> Any:
        return own(table[:, 0], table[:, 1], weights)

    draw = np.random.default_rng(2)
    base, tuned = simulated(draw, 200_000, (1.0, 0.7))
    truth = float(value(tuned, np.ones((1, 200_000)))[0] - value(base, np.ones((1, 200_000)))[0])
    inside, runs = 0, 150
    for _ in range(runs):
        found = items_effect(*simulated(draw, 60, (1.0, 0.7)), value, None, 0.95)
        assert found.interval is not None
        inside += found.interval[0] <= truth <= found.interval[1]
    assert inside >= runs * 0.92


def test_clusters_widen_an_interval_and_the_same_answers_have_none() -> None:
    draw = random.Random(0)
    wanted = np.array([draw.gauss(0, 1) for _ in range(20) for _ in range(1)])
    base, tuned = (np.column_stack([wanted + np.array([draw.gauss(0, s) for _ in wanted]), wanted]) for s in (1, 0.5))

    def value(table: Any, weights: Any) -> Any:
        return spearman(table[:, 0], table[:, 1], weights)

    one = items_effect(base, tuned, value, None, 0.95)
    again = items_effect(np.repeat(base, 5, axis=0), np.repeat(tuned, 5, axis=0), value, np.repeat(range(20), 5), 0.95)
    assert again.difference == pytest.approx(one.difference, abs=1e-9)
    assert one.interval is not None
    assert again.interval is not None
    assert again.interval[1] - again.interval[0] == pytest.approx(one.interval[1] - one.interval[0], rel=0.15)
    assert items_effect(base, base, value, None, 0.95).interval is None
    assert "at least 8" in str(items_effect(base[:5], tuned[:5], value, None, 0.95).missing)
