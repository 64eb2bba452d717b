"""The ranked table: ranks follow from what is shown, on the same items, in whatever order the models are given."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.comparison import compare
from tunelift.comparison.leaderboard import Leaderboard, leaderboard
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.run_files.layout import FORMAT

Row = dict[str, Any]


def rows(values: Sequence[float | None], name: str = "accuracy", **more: Any) -> list[Row]:
    made: list[Row] = []
    for index, value in enumerate(values):
        row: Row = {"id": str(index), "input": f"text {index}", "reference": " yes", "prediction": f" {value}", **more}
        made.append(row | ({"unscored": "too long"} if value is None else {"metrics": {name: value}}))
    return made


def right(count: int, of: int = 100) -> list[Row]:
    return rows([1] * count + [0] * (of - count))


BASE = right(30)
TUNED = {"weak": right(40), "good": right(80), "same": rows([1] * 20 + [0] * 1 + [1] * 60 + [0] * 19)}


def test_a_table_with_a_tie() -> None:
    board = leaderboard(BASE, TUNED)
    assert [(one.place, one.name) for one in board.candidates] == [
        ("tied 1st", "good"),
        ("tied 1st", "same"),
        ("3rd", "weak"),
    ]
    assert (board.metric, board.items, board.base, board.looks) == ("accuracy", 100, 0.3, 3)
    written = str(board)
    assert written.startswith("good, same are tied for first place on accuracy (100 items)")
    assert "p is corrected for 3 candidates; ranks rest on all 3 pairs" in written
    assert "owes a part of its value to luck" in written
    assert "Results compared on this test set so far: 3." in written


def test_one_that_is_shown_to_be_better_ranks_first() -> None:
    board = leaderboard(BASE, {"weak": TUNED["weak"], "good": TUNED["good"]})
    assert [(one.place, one.name) for one in board.candidates] == [("1st", "good"), ("2nd", "weak")]
    assert str(board).startswith("good ranks first on accuracy")
    assert [(duel.one, duel.other, duel.better) for duel in board.duels] == [("good", "weak", "good")]


def test_differences_to_base_are_those_of_compare_and_p_is_holms() -> None:
    board = leaderboard(BASE, TUNED)
    alone = {name: compare(BASE, side).metrics["accuracy"] for name, side in TUNED.items()}
    by_name = {one.name: one.result for one in board.candidates}
    for name, result in alone.items():
        assert by_name[name].effect == result.effect
    raw = sorted(result.effect.p for result in alone.values() if result.effect.p is not None)
    adjusted = sorted(result.p_adjusted for result in by_name.values() if result.p_adjusted is not None)
    assert adjusted[0] == pytest.approx(3 * raw[0])
    assert adjusted[-1] == pytest.approx(max(3 * raw[0], 2 * raw[1], raw[2]))


def test_the_json_holds_the_table_and_the_pairs() -> None:
    written = json.loads(json.dumps(leaderboard(BASE, TUNED).to_dict(), allow_nan=False))
    assert [(one["name"], one["rank"], one["tied"], one["tuned"]) for one in written["candidates"]] == [
        ("good", 1, True, 0.8),
        ("same", 1, True, 0.8),
        ("weak", 3, False, 0.4),
    ]
    assert {(duel["one"], duel["other"]): duel["better"] for duel in written["pairs"]} == {
        ("good", "same"): None,
        ("good", "weak"): "good",
        ("same", "weak"): "same",
    }
    assert (written["format"], written["left_out"], written["level"]) == (FORMAT, 0, 0.95)


def test_lower_is_better() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (3, 60))
    base, low, high = (rows((value + part).tolist(), "loss") for value, part in zip((2, 1, 1.5), noise, strict=True))
    board = leaderboard(base, {"high": high, "low": low})
    assert [(one.place, one.name, one.result.verdict.word) for one in board.candidates] == [
        ("1st", "low", "better"),
        ("2nd", "high", "better"),
    ]
    assert "loss (lower is better)" in str(board)


def test_items_that_one_model_lacks_count_against_what_can_be_said_of_it() -> None:
    lacking = rows([1] * 50 + [None] * 10 + [0] * 40)
    infinite = rows([1] * 90 + [math.inf] * 5 + [0] * 5)
    board = leaderboard(BASE, {"lacking": lacking, "infinite": infinite, "whole": right(70)})
    found = {one.name: one.result for one in board.candidates}
    assert board.items == 100
    assert {name: (one.items, one.effect.one_sided) for name, one in found.items()} == {
        "lacking": (90, 10),
        "infinite": (95, 5),
        "whole": (100, 0),
    }
    low, high = found["lacking"].effect.interval
    assert low < 20 / 100 < 30 / 100 < high  # wrong or right on all ten it lacks
    assert found["infinite"].effect.unknown == 5  # no accuracy is infinite
    assert [note.partition(" items")[0] for note in board.notes[:-1]] == ["90 of 100", "95 of 100"]


def test_an_item_that_no_side_has_scored_is_left_out() -> None:
    base, tuned = rows([0] * 50 + [None] * 10), rows([1] * 50 + [None] * 10)
    board = leaderboard(base, {"one": tuned, "two": tuned})
    assert (board.items, board.to_dict()["left_out"]) == (50, 10)
    assert {entry.reason for entry in board.left_out} == {"unscored, base: too long; one: too long"}


def test_one_candidate_is_compared_and_not_praised() -> None:
    board = leaderboard(BASE, {"only": right(60)})
    assert str(board).startswith("only is the only candidate on accuracy")
    assert (board.notes, board.duels, board.candidates[0].place) == ([], [], "1st")


def test_what_cannot_be_ranked_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="no tuned model"):
        leaderboard(BASE, {})
    with pytest.raises(InputError, match="level is 95"):
        leaderboard(BASE, TUNED, level=95)
    with pytest.raises(InputError, match='no metric "loss"'):
        leaderboard(BASE, TUNED, metric="loss")
    with pytest.raises(InputError) as caught:
        leaderboard(BASE, {"good": right(50), "short": right(20, of=90), "other": rows([1] * 100, "loss")[:99]})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["short", "other"]
    no_common = {"a": rows([1] * 100, "loss"), "b": right(40)}
    with pytest.raises(InputError, match="no metric"):
        leaderboard([row | {"metrics": {"loss": 1.0, "accuracy": 0}} for row in BASE], no_common)
    with pytest.raises(InputError, match="No item has a finite accuracy for both base and a"):
        leaderboard(BASE, {"a": rows([math.nan] * 100), "b": right(40)})


def test_candidates_that_were_made_differently_are_refused_where_the_base_does_not_say() -> None:
    sides = {name: Scores(right(50), {"made_with": {"decoding": name}}) for name in ("greedy", "sampled")}
    with pytest.raises(InputError, match=r'decoding differs between the tuned models: "greedy", "sampled"'):
        leaderboard(BASE, sides)


def test_a_candidate_of_another_base_model_is_ranked_with_a_note() -> None:
    def side(count: int, name: str, weights: str | None) -> Scores:
        return Scores(right(count), {"made_with": {"model": {"name": name, "weights_sha256": weights}}})

    base = side(30, "gpt2", "abc")
    board = leaderboard(base, {"moved": side(60, "/elsewhere/gpt2", "abc"), "other": side(70, "smol", "def")})
    assert [note for note in board.notes if "another model" in note] == [
        "other was tuned from another model than this base: tuning alone did not make its difference."
    ]
    assert len(leaderboard(base, {"unknown": right(60), "moved": side(60, "gpt2", "abc")}).notes) == 1


def test_sides_on_disk(tmp_path: Path) -> None:
    Scores(BASE).save(tmp_path / "base")
    for name, side in TUNED.items():
        Scores(side).save(tmp_path / name / "tuned")
    board = leaderboard(tmp_path / "base", {name: tmp_path / name for name in TUNED})
    assert [one.name for one in board.candidates] == ["good", "same", "weak"]


def shown_better(board: Leaderboard) -> set[tuple[str, str]]:
    """Return (winner, loser) of each duel that was decided."""
    return {(duel.better, duel.one if duel.better == duel.other else duel.other) for duel in board.duels if duel.better}


@settings(max_examples=40, deadline=None)
@given(
    rates=st.lists(st.floats(0.05, 0.95), min_size=1, max_size=5),
    graded=st.booleans(),
    seed=st.integers(0, 2**16),
    order=st.randoms(use_true_random=False),
)
def test_ranks_follow_from_what_is_shown_and_the_order_changes_nothing(
    rates: list[float], graded: bool, seed: int, order: Any
) -> None:
    rng = np.random.default_rng(seed)

    def side(rate: float) -> list[Row]:
        values = np.clip(rng.normal(rate, 0.3, 40), 0, 1).round(3) if graded else rng.random(40) < rate
        return rows(values.astype(float).tolist())

    base, tuned = side(0.5), {f"m{index}": side(rate) for index, rate in enumerate(rates)}
    board = leaderboard(base, tuned)
    better = shown_better(board)
    ranks = {one.name: one.rank for one in board.candidates}
    assert ranks == {name: 1 + sum(loser == name for _, loser in better) for name in tuned}
    values = {one.name: one.result.tuned for one in board.candidates}
    assert all(values[winner] > values[loser] for winner, loser in better)
    best = max(values, key=values.__getitem__)
    assert ranks[best] == 1
    assert {one.name for one in board.candidates if one.tied} == {
        name for name in ranks if list(ranks.values()).count(ranks[name]) > 1
    }
    shuffled = list(tuned)
    order.shuffle(shuffled)
    again = leaderboard(base, {name: tuned[name] for name in shuffled}).to_dict()
    first = board.to_dict()
    assert {key: again[key] for key in first if key != "looks"} == {key: first[key] for key in first if key != "looks"}
