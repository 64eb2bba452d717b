"""The claim over seeds: Student's interval, its refusals, and what it says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from tunelift.comparison.seeds import CLAIM, recipe_claim

VALUES = [0.71, 0.74, 0.69, 0.73, 0.72, 0.75]


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_interval_and_p_are_students(level: float) -> None:
    entry = recipe_claim(range(6), 0.6, VALUES, True, level)
    expected = stats.ttest_1samp(np.array(VALUES) - 0.6, 0.0)
    assert entry["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert entry["interval"] == pytest.approx(list(expected.confidence_interval(level)), rel=1e-9)
    assert entry["difference"] == pytest.approx(np.mean(VALUES) - 0.6)
    assert entry["differences"] == pytest.approx([value - 0.6 for value in VALUES])
    assert (entry["seeds"], entry["tuned"]) == ([0, 1, 2, 3, 4, 5], VALUES)
    assert entry["verdict"] == "better"
    assert entry["claim"] == CLAIM == "this recipe against the base, with other seeds, on these items"
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


@pytest.mark.parametrize(
    ("base", "higher", "verdict", "said"),
    [
        (0.6, True, "better", "lies above 0."),
        (0.6, False, "worse", "lies above 0 (lower is better)."),
        (0.9, True, "worse", "lies below 0."),
        (0.9, False, "better", "lies below 0 (lower is better)."),
        (0.725, True, "inconclusive", "contains 0."),
    ],
)
def test_the_verdict_follows_the_interval_and_the_direction(base: float, higher: bool, verdict: str, said: str) -> None:
    entry = recipe_claim(range(6), base, VALUES, higher, 0.95)
    assert entry["verdict"] == verdict
    assert entry["reason"].startswith("the 95% interval over the seeds of the difference against the base, ")
    assert entry["reason"].endswith(said)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_than_five_seeds_show_values_and_claim_nothing(count: int) -> None:
    entry = recipe_claim(range(count), 0.1, VALUES[:count], True, 0.95)
    assert (entry["interval"], entry["p"], entry["verdict"]) == (None, None, "inconclusive")
    assert entry["reason"] == f"a claim about the recipe takes at least 5 seeds, and there are {count}."
    assert entry["difference"] == pytest.approx(np.mean(VALUES[:count]) - 0.1)


def test_seeds_that_all_give_the_same_show_no_spread() -> None:
    entry = recipe_claim(range(5), 0.1, [0.1 + 0.2] * 5, True, 0.95)
    assert (entry["interval"], entry["verdict"]) == (None, "inconclusive")
    assert "the same for every seed" in entry["reason"]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(0.05, 0.02, size=(2000, 5))
    intervals = [recipe_claim(range(5), 0.0, list(row), True, 0.95)["interval"] for row in drawn.tolist()]
    covered = np.mean([low <= 0.05 <= high for low, high in intervals])
    assert 0.935 < covered < 0.965


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e308, -1e200])
def test_values_that_cannot_be_computed_with_claim_nothing(odd: float) -> None:
    for base, tuned in ((0.1, [*VALUES, odd]), (odd, VALUES), (odd, [-odd, *VALUES]), (0.1, [odd, -odd, *VALUES])):
        entry = recipe_claim(range(len(tuned)), base, tuned, True, 0.95)
        assert (entry["interval"], entry["p"], entry["verdict"]) == (None, None, "inconclusive")
        assert entry["difference"] is None
        assert entry["reason"] == "a value is missing, no finite number, or too large."
        json.dumps(entry, allow_nan=False)
