"""Methods compared over items and seeds: how often equal ones are told apart, and that different ones are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunelift.comparison.pairing import Side
from tunelift.comparison.pareto import front
from tunelift.comparison.recipes import crossed, recipes


def drawn(source: np.random.Generator, spread: float, seeds: int, items: int, shift: float = 0.0) -> Any:
    """Return differences (seeds, items) of two methods: of the items, of the seeds, and of both."""
    of_items, of_seeds = source.normal(size=(1, items)), spread * source.normal(size=(seeds, 1))
    return shift + of_items + of_seeds + 0.5 * source.normal(size=(seeds, items))


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_methods_are_told_apart_at_most_one_time_in_twenty(spread: float, seeds: int) -> None:
    source = np.random.default_rng(7)
    cases = [crossed(drawn(source, spread, seeds, 100), None, 0.95) for _ in range(2000)]
    wrong = np.mean([p < 0.05 for _, _, p in cases])
    assert wrong <= 0.065, "0.05 and three standard errors of 2,000 cases"
    assert wrong == np.mean([not low <= 0 <= high for _, (low, high), _ in cases])


def test_a_difference_that_seeds_do_not_explain_is_seen() -> None:
    source = np.random.default_rng(3)
    seen = np.mean([crossed(drawn(source, 0.1, 5, 200, shift=0.5), None, 0.95)[2] < 0.05 for _ in range(200)])
    assert seen > 0.95
    assert crossed(np.zeros((3, 50)), None, 0.95) == (0.0, (0.0, 0.0), 1.0)


def test_clusters_count_as_one() -> None:
    source = np.random.default_rng(5)
    one = source.normal(0.4, 1, size=(1, 10)).repeat(20, axis=1) + 0.01 * source.normal(size=(3, 200))
    names = [str(i // 20) for i in range(200)]
    alone, together = crossed(one, None, 0.95), crossed(one, names, 0.95)
    assert alone[0] == pytest.approx(together[0])
    assert together[2] > 10 * alone[2]


def side(values: Any) -> Side:
    made = {"model": {}}
    rows = {
        str(i): {"id": str(i), "input": f"q{i}", "reference": "a", "prediction": "b", "metrics": {"accuracy": float(v)}}
        for i, v in enumerate(values)
    }
    return Side("side", rows, {"made_with": made})


def test_ranks_as_recipes_take_seeds_into_account() -> None:
    items = np.arange(200)
    steady = {"good": [items % 10 != 0, items % 10 != 1, items % 10 != 2], "bad": [items % 2 == 0] * 3}
    swings = {"good": [items % 10 != 0, items % 3 == 0, items % 10 != 2], "bad": [items % 2 == 0] * 3}
    ids = set(map(str, items))
    found = recipes(
        "accuracy", {k: [side(v) for v in some] for k, some in steady.items()}, ids, 0.95, higher_is_better=True
    )
    assert found is not None
    assert found.ranks == {"good": 1, "bad": 2}
    found = recipes(
        "accuracy", {k: [side(v) for v in some] for k, some in swings.items()}, ids, 0.95, higher_is_better=True
    )
    assert found is not None
    assert found.ranks == {"good": 1, "bad": 1}, "one seed was worse than the other method"
    assert recipes("accuracy", {k: [side(v[0])] for k, v in steady.items()}, ids, 0.95, higher_is_better=True) is None


def test_the_front_is_of_those_that_nobody_beats_in_everything() -> None:
    quality, cost = {"a": 3, "b": 2, "c": 1, "d": 1}, {"a": 9, "b": 1, "c": 2, "d": 1}
    things = [lambda x, y: quality[x] > quality[y], lambda x, y: cost[x] < cost[y]]
    assert front("abcd", things) == ["a", "b"]
    assert front("abcd", []) == list("abcd"), "ties are beaten by nobody"
