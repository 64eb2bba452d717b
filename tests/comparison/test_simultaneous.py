"""The step-down maximum: never above Holm's, near the plain p where all questions are one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.comparison.paired_tests import holm
from tunelift.comparison.simultaneous import step_down

DRAWS = np.random.default_rng(3)


def test_questions_that_are_one_question_cost_nothing() -> None:
    one = DRAWS.standard_normal((200, 1))
    adjusted = step_down([0.02] * 12, np.repeat(one, 12, axis=1))
    assert adjusted == pytest.approx([0.02] * 12, abs=0.005)
    assert holm([0.02] * 12)[0] == pytest.approx(0.24)


def test_independent_questions_cost_what_they_do() -> None:
    adjusted = step_down([0.004, 0.5, 0.6, 0.9], DRAWS.standard_normal((400, 4)))
    assert adjusted[0] == pytest.approx(1 - (1 - 0.004) ** 4, abs=0.003)
    assert adjusted == sorted(adjusted)


def test_the_largest_is_not_paid_for_by_those_behind_it() -> None:
    strong, weak = step_down([1e-9, 0.03], DRAWS.standard_normal((100, 2)))
    assert strong < 1e-6, "Holm's is smaller than what draws can show"
    assert weak == pytest.approx(0.03, abs=0.005), "the last of a step-down stands alone"


@settings(max_examples=30, deadline=None)
@given(
    p=st.lists(st.floats(1e-6, 1), min_size=2, max_size=8),
    units=st.integers(1, 60),
    seed=st.integers(0, 99),
    constant=st.booleans(),
)
def test_it_is_never_above_holms(p: list[float], units: int, seed: int, constant: bool) -> None:
    differences = np.random.default_rng(seed).integers(-1, 2, (units, len(p))).astype(float)
    if constant:
        differences[:, 0] = 0.0
    adjusted = step_down(p, differences)
    assert all(one <= other for one, other in zip(adjusted, holm(p), strict=True))
    assert all(one >= own - 0.02 for one, own in zip(adjusted, p, strict=True))
    order = np.argsort(p)
    assert all(np.diff(np.array(adjusted)[order]) >= -1e-12) or units < 30
    if units < 30:
        assert adjusted == holm(p)
