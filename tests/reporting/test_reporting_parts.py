"""Numbers in words, the axis of an effect, the thinning of a curve, the cutting of long texts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.core.records import Scores
from tunelift.reporting import wording
from tunelift.reporting.changes import TEXT_BYTES, changes, left_out
from tunelift.reporting.curves import loss_curve, loss_points, thinned
from tunelift.reporting.effect import effect
from tunelift.reporting.run_files import RunFiles
from tunelift.reporting.wording import DASH, MINUS


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.6134, "0.613"), (0, "0.000"), (-0.25, f"{MINUS}0.250"), (31.4159, "31.42"), (12345.6, "12,346"),
     (2e-5, "2.0e-05"), (None, DASH), (math.nan, DASH)],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert wording.number(value) == text


def test_amounts_with_their_units() -> None:
    assert wording.duration(2.51) == "2.5 s"
    assert wording.duration(200) == "3 min 20 s"
    assert wording.duration(3840) == "1 h 4 min"
    assert wording.size(999) == "999 B"
    assert wording.size(2_910_000_000) == "2.9 GB"
    assert wording.p_figure(3e-30) == "< 0.001"


@pytest.mark.parametrize(
    ("verdict", "base", "tuned", "sentence"),
    [
        ("better", 2.0, 1.0, "The tuned model is better: loss fell from 2.000 to 1.000."),
        ("worse", 1.0, 2.0, "The tuned model is worse: loss rose from 1.000 to 2.000."),
        ("inconclusive", 1.0, 1.0, "whether the tuned model is better: loss stayed at 1.000."),
        ("equivalent", 1.0, 1.0, "as good as the base, within the margin: loss stayed at 1.000."),
    ],
)
def test_verdict_sentence(verdict: str, base: float, tuned: float, sentence: str) -> None:
    comparison = {"metrics": {"loss": {"verdict": verdict, "base": base, "tuned": tuned}}}
    assert wording.verdict_sentence(comparison).endswith(sentence)


small = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-9)


@given(small, small, small)
def test_effect_stays_on_its_axis_whatever_the_units(difference: float, first: float, second: float) -> None:
    bounds = sorted([first, second])
    drawn = effect("loss", {"difference": difference, "interval": bounds, "verdict": "worse"}, True)
    places = [drawn.point, drawn.low, drawn.high, drawn.zero, *(place for place, _ in drawn.ticks)]
    assert all(0 <= place <= 100 for place in places)
    assert 2 <= len(drawn.ticks) <= 6
    assert "0" in [label for _, label in drawn.ticks]


def test_effect_without_difference_or_interval() -> None:
    drawn = effect("accuracy", {"difference": 0.0, "interval": None, "verdict": "inconclusive"}, False)
    assert (drawn.low, drawn.high) == (None, None)
    assert drawn.point == drawn.zero


def test_thinned_keeps_the_mean_and_the_last_step() -> None:
    points = [(float(step), float(step % 7)) for step in range(1, 1001)]
    few, width = thinned(points, most=100)
    assert (len(few), width, few[-1][0]) == (100, 10, 1000)
    assert sum(loss for _, loss in few) / 100 == pytest.approx(sum(loss for _, loss in points) / 1000)
    assert thinned(points[:50], most=100) == (points[:50], 1)


def test_losses_that_are_no_numbers_are_not_drawn() -> None:
    events = [
        {"event": "train", "step": 1, "loss": math.nan},
        {"event": "train", "step": 2, "loss": 0.5},
        {"event": "x"},
    ]
    assert loss_points(events, "train") == [(2, 0.5)]


def test_curve_is_themed_text_and_draws_the_same_twice() -> None:
    train, validation = [(1.0, 2.0), (2.0, 1.0)], [(2.0, 1.5)]
    drawing = loss_curve(train, validation, validation)
    assert drawing == loss_curve(train, validation, validation)
    assert ">validation</text>" in drawing
    assert "var(--train)" in drawing
    assert "#0" not in drawing
    assert "<style" not in drawing
    assert loss_curve([], validation, []).startswith("<svg")


def test_long_texts_share_the_room() -> None:
    rows = [{"id": str(i), "input": "ü" * 9000, "reference": "r", "prediction": "p" * 9000} for i in range(40)]
    run = _run(rows, {"lost": [row["id"] for row in rows], "gained": []})
    lost, _ = changes(run)
    assert sum(len(change.input.encode()) + len(change.tuned) for change in lost.shown) < 2 * TEXT_BYTES
    assert "more characters in scores.jsonl" in lost.shown[0].input
    assert lost.shown[0].reference == "r"


def test_flips_that_no_row_explains_are_counted_only() -> None:
    lost, gained = changes(_run([{"id": 1, "input": "a", "reference": None}], {"lost": ["1", "2"], "gained": []}))
    assert (len(lost.shown), lost.total, gained.total) == (1, 2, 0)
    assert lost.shown[0].reference == ""


def test_half_characters_of_broken_outputs_do_not_stop_the_page() -> None:
    lost, _ = changes(_run([{"id": "1", "prediction": "a\ud800"}], {"lost": ["1"]}))
    assert lost.shown[0].tuned == "a?"


def test_reasons_are_merged_over_both_sides() -> None:
    rows = [{"id": "1", "unscored": "too long"}, {"id": "2", "unscored": "empty"}, {"id": "3", "unscored": "too long"}]
    assert left_out(_run(rows, {})) == [("too long", ["1", "3"]), ("empty", ["2"])]


def _run(rows: list[dict[str, object]], flips: dict[str, list[str]]) -> RunFiles:
    return RunFiles(Path(), base=Scores(rows), tuned=Scores(rows), comparison={"flips": flips})
