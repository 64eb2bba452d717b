"""Seconds by stage, and what fits into a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.planning.seconds import FEWEST, Rate, Stage, fitted, total


@settings(deadline=None)  # on a busy machine
@given(st.floats(0, 100), st.floats(0.001, 10), st.integers(1, 100), st.integers(1, 100))
def test_two_measurements_give_the_line_through_them(fixed: float, each: float, few: int, more: int) -> None:
    rate = Rate(fixed, each)
    found = Rate.through((few, rate.of(few)), (few + more, rate.of(few + more)))
    assert found.of(few + 2 * more) == pytest.approx(rate.of(few + 2 * more), rel=1e-6, abs=1e-6)


def test_a_beginning_never_takes_less_than_no_time() -> None:
    assert Rate.through((10, 1.0), (100, 50.0)) == Rate(0.0, 0.5)
    assert Rate.through((10, 5.0), (100, 4.0)) == Rate(0.0, 0.04)
    assert Rate(3.0, 1.0).of(0) == 0.0


STAGES = st.lists(
    st.builds(Stage, st.just("stage"), st.floats(0, 50), st.floats(0, 500), st.floats(0, 1)), min_size=1, max_size=5
)


@settings(deadline=None)  # on a busy machine
@given(STAGES, st.floats(1, 5000), st.floats(0.1, 5), st.integers(1, 3000))
def test_what_is_said_to_fit_into_a_time_does(stages: list[Stage], seconds: float, epochs: float, items: int) -> None:
    found = fitted(stages, seconds, epochs, items)
    assert found.epochs <= epochs and min(items, FEWEST) <= found.items <= items
    assert found.seconds == pytest.approx(total(stages, found.epochs, found.items))
    if found.fits:
        assert found.seconds <= seconds
    else:
        assert total(stages, epochs, items) > 0.9 * seconds


def test_epochs_and_items_both_give_way() -> None:
    stages = [Stage("base", each_item=0.1), Stage("training", each_epoch=1000.0), Stage("tuned", each_item=0.1)]
    found = fitted(stages, 600.0, 3, 3000)
    assert found.fits and 0.2 < found.epochs < 1 and 1000 < found.items < 1500
    cheap = fitted(stages, 3800.0, 3, 3000)
    assert cheap.items == 3000 and 2.5 < cheap.epochs < 3
