"""Slices: which items belong to which, what is tested together, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.comparison.effects import judged_together
from tunelift.comparison.measured import Measured, measure
from tunelift.comparison.pairing import pair, read_side
from tunelift.comparison.slices import FEWEST_ITEMS, slice_results
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

LEVEL = 0.95


def measured(
    base: Sequence[float], tuned: Sequence[float], columns: Mapping[str, Sequence[Any]], **top: Sequence[Any]
) -> Measured:
    """Rows with these values, each with its part of the columns below "slices" (None: lacking) and at the top."""

    def rows(values: Sequence[float]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for index, value in enumerate(values):
            named = {name: column[index] for name, column in columns.items() if column[index] is not None}
            row = {"id": index, "input": f"text {index}", "reference": "yes", "metrics": {"accuracy": value}}
            made.append(row | {name: column[index] for name, column in top.items()} | {"slices": named})
        return made

    one, other = read_side(rows(base), "base"), read_side(rows(tuned), "tuned")
    return measure("accuracy", one, other, pair(one, other)[0])


def test_each_value_of_a_column_is_compared_by_itself() -> None:
    column = ["a"] * 40 + ["b"] * 30 + [None] * 10
    found = slice_results(measured([0] * 80, [1] * 40 + [0] * 40, {"kind": column}), LEVEL)
    kinds = found["kind"]
    assert [(name, part.items) for name, part in kinds.items()] == [("a", 40), ("b", 30), ("(none)", 10)]
    assert [(part.base, part.tuned) for part in kinds.values()] == [(0, 1), (0, 0), (0, 0)]
    assert [part.verdict.word for part in kinds.values()] == ["better", "inconclusive", "inconclusive"]


def test_holm_is_over_the_slices_of_all_columns_together() -> None:
    rng = np.random.default_rng(1)
    base, tuned = rng.integers(0, 2, 200), rng.integers(0, 2, 200) | rng.integers(0, 2, 200)
    columns = {"x": ["one", "two"] * 100, "y": ["one"] * 120 + ["two"] * 76 + ["few"] * 4}
    values = measured(base.tolist(), tuned.tolist(), columns)
    found = slice_results(values, LEVEL)
    parts = [part for column in found.values() for part in column.values() if part.items >= FEWEST_ITEMS]
    raw = sorted(part.effect.p for part in parts if part.effect.p is not None)
    assert len(raw) == 4
    smallest = min(part.p_adjusted for part in parts if part.p_adjusted is not None)
    assert smallest == pytest.approx(min(1.0, 4 * raw[0]))
    whole = judged_together({"all": values}, LEVEL, "slices")["all"]
    assert slice_results(measured(base.tolist(), tuned.tolist(), {"x": ["same"] * 200}), LEVEL)["x"]["same"] == whole


def test_a_small_slice_has_values_and_no_verdict() -> None:
    found = slice_results(measured([0] * 12, [1] * 12, {"kind": ["big"] * 8 + ["few"] * 3 + ["one"]}), LEVEL)["kind"]
    assert found["big"].verdict.word == "better"
    few = found["few"].to_dict()
    assert (few["items"], few["base"], few["tuned"], few["difference"]) == (3, 0, 1, 1)
    assert (few["interval"], few["p"], few["p_adjusted"]) == (None, None, None)
    assert (few["verdict"], few["reason"]) == ("inconclusive", "only 3 items.")
    assert found["one"].verdict.reason == "only 1 item."


def test_rare_values_beyond_twenty_are_one_slice() -> None:
    column = [f"v{index:02}" for index in range(25) for _ in range(30 - index)]
    found = slice_results(measured([0] * len(column), [1] * len(column), {"kind": column}), LEVEL)["kind"]
    assert list(found) == [*(f"v{index:02}" for index in range(20)), "(others)"]
    assert found["(others)"].items == sum(30 - index for index in range(20, 25))


def test_numbers_are_cut_into_quartiles_named_by_what_is_inside() -> None:
    column = [str(number) for number in range(12, 112)]
    found = slice_results(measured([0] * 101, [1] * 101, {"age": [*column, None]}), LEVEL)["age"]
    sizes = {name: part.items for name, part in found.items()}
    assert sizes == {"12 to 36": 25, "37 to 61": 25, "62 to 86": 25, "87 to 111": 25, "(none)": 1}
    ten = [str(number % 10) for number in range(100)]
    assert len(slice_results(measured([0] * 100, [1] * 100, {"age": ten}), LEVEL)["age"]) == 10
    mixed = [*(str(number) for number in range(99)), "unknown"]
    assert "(others)" in slice_results(measured([0] * 100, [1] * 100, {"age": mixed}), LEVEL)["age"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-50, 50), st.sampled_from(["a", "b", ""])), min_size=1, max_size=80))
def test_every_item_is_in_just_one_slice_of_a_column(column: list[int | str | None]) -> None:
    text = [None if value is None else str(value) for value in column]
    values = measured([0] * len(text), [index % 2 for index in range(len(text))], {"kind": text})
    found = slice_results(values, LEVEL).get("kind", {})
    if any(text):
        assert sum(part.items for part in found.values()) == len(text)
        gained = sum(part.effect.difference * part.items for part in found.values())
        assert gained == pytest.approx(len(text) // 2)
    else:
        assert found == {}


def test_keys_of_the_rows_and_the_reference_can_be_asked_for() -> None:
    values = measured([0] * 20, [1] * 20, {}, reference=[" yes", " no"] * 10, long=[True] * 10 + [False] * 10)
    assert slice_results(values, LEVEL) == {}
    found = slice_results(values, LEVEL, ["reference", "long"])
    assert {column: list(parts) for column, parts in found.items()} == {
        "reference": ["no", "yes"],
        "long": ["false", "true"],
    }


def test_what_is_no_property_of_the_items_is_refused() -> None:
    values = measured([0] * 20, [1] * 20, {"kind": ["a", "b"] * 10}, tags=[["a"]] * 20)
    with pytest.raises(InputError, match=r'No row has a value of "kindd" to slice by. Did you mean "kind"'):
        slice_results(values, LEVEL, ["kindd"])
    with pytest.raises(InputError, match='"tags" holds list and cannot be a slice'):
        slice_results(values, LEVEL, ["tags"])
    base = [{"id": 1, "input": "a", "reference": "b", "prediction": side, "metrics": {"accuracy": 1}} for side in "x"]
    one, other = read_side(base, "base"), read_side([base[0] | {"prediction": "y"}], "tuned")
    with pytest.raises(InputError, match='"prediction" of the item "1" differs between base and tuned: x, y'):
        slice_results(measure("accuracy", one, other, pair(one, other)[0]), LEVEL, ["prediction"])


def test_a_metric_of_the_whole_data_set_is_made_from_the_slices_own_counts() -> None:
    def side(right: Sequence[bool]) -> Scores:
        rows = []
        for index, hit in enumerate(right):
            label = "ab"[index % 2]
            answer = label if hit else "ab"[1 - index % 2]
            same = {f"tp {label}": 1} if hit else {f"fn {label}": 1, f"fp {answer}": 1}
            rows.append({
                "id": index, "input": f"t{index}", "reference": label, "prediction": answer,
                "counts": {"macro_f1": same}, "metrics": {"accuracy": int(hit)}, "slices": {"half": str(index // 20)},
            })  # fmt: skip
        return Scores(rows)

    one = read_side(side([index % 3 == 0 for index in range(40)]), "base")
    other = read_side(side([index < 30 for index in range(40)]), "tuned")
    pairs = pair(one, other)[0]
    values = measure("macro_f1", one, other, pairs)
    halves = slice_results(values, LEVEL)["half"]
    assert halves["0"].tuned == pytest.approx(1.0)
    assert halves["1"].tuned == pytest.approx(0.5)
