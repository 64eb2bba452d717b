"""Calibration of probabilities: by hand, on answers drawn from known probabilities, and what the note says."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.comparison.calibration_error import wilson_interval
from tunelift.comparison.pairing import Pair
from tunelift.comparison.probabilities import UNFINISHED, probability_calibration


def row(scores: dict[str, float], reference: str, **more: Any) -> dict[str, Any]:
    return {"reference": reference, "prediction": max(scores, key=scores.__getitem__), "label_scores": scores, **more}


def sure(confidence: float, right: bool, **more: Any) -> dict[str, Any]:
    """An answer " a" with this confidence; log-likelihoods need not sum to 1."""
    scores = {" a": math.log(confidence) - 3, " b": math.log1p(-confidence) - 3}
    return row(scores, " a" if right else " b", **more)


def pairs_of(base: Sequence[dict[str, Any]], tuned: Sequence[dict[str, Any]]) -> list[Pair]:
    return [Pair(str(i), *both, item=str(i)) for i, both in enumerate(zip(base, tuned, strict=True))]


def drawn(count: int, says: float, is_so: float, seed: int = 0) -> list[dict[str, Any]]:
    """Answers with confidences up to `says` around which the share right is `is_so` - `says` off."""
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.55, says, count)
    right = generator.random(count) < confidence + is_so - says
    return [sure(c, bool(r)) for c, r in zip(confidence.tolist(), right, strict=True)]


def test_bins_and_error_by_hand() -> None:
    # 20 answers at 0.6 of which 10 are right, and 20 at 0.9 of which 18 are right.
    side = [sure(0.6, i < 10) for i in range(20)] + [sure(0.9, i < 18) for i in range(20)]
    found = probability_calibration(pairs_of(side, side), 0.95)
    assert found is not None
    low, high = found["base"]["bins"]
    assert (low["items"], high["items"]) == (20, 20)
    assert (low["confidence"], low["accuracy"]) == pytest.approx((0.6, 0.5))
    assert (high["confidence"], high["accuracy"]) == pytest.approx((0.9, 0.9))
    assert low["interval"] == pytest.approx([0.2993, 0.7007], abs=1e-4)  # Wilson's for 10 of 20
    chance = [0.5 * 0.5 * 20 / 19 / 20, 0.9 * 0.1 * 20 / 19 / 20]  # variance of a bin's gap
    squares = [0.1**2 - chance[0], 0 - chance[1]]
    assert found["base"]["ece"] == pytest.approx(math.sqrt(max(sum(squares) / 2, 0)))
    assert found["difference"] == 0
    assert found["interval"] is None
    assert "is 0.050 for base and 0.050 for tuned" in found["note"]


def test_a_gap_beyond_chance_is_the_error() -> None:
    side = [sure(0.9, i % 2 == 0) for i in range(400)]  # one bin: all confidences are equal
    found = probability_calibration(pairs_of(side, side), 0.95)
    assert found is not None
    assert len(found["tuned"]["bins"]) == 1
    assert found["tuned"]["ece"] == pytest.approx(math.sqrt(0.4**2 - 0.25 / 399))


def test_calibrated_and_overconfident_models_are_told_apart() -> None:
    calibrated, overconfident = drawn(2000, 0.99, 0.99), drawn(2000, 0.99, 0.8, seed=1)
    found = probability_calibration(pairs_of(overconfident, calibrated), 0.95)
    assert found is not None
    assert found["base"]["ece"] == pytest.approx(0.19, abs=0.03)
    assert found["tuned"]["ece"] < 0.03
    low, high = found["interval"]
    assert low < -0.19 + 0.02 and -0.19 - 0.02 < high < -0.1
    assert found["base"]["items"] == 2000
    assert [len(found[side]["bins"]) for side in ("base", "tuned")] == [15, 15]
    assert {point["items"] for point in found["base"]["bins"]} == {133, 134}
    assert found == probability_calibration(pairs_of(overconfident, calibrated), 0.95)


def test_chance_alone_makes_no_difference() -> None:
    """Calibrated models of different sharpness: the uncorrected error would differ by chance's part in it."""
    excluded = 0
    for seed in range(40):
        dull, sharp = drawn(300, 0.6, 0.6, seed=seed), drawn(300, 0.999, 0.999, seed=100 + seed)
        found = probability_calibration(pairs_of(dull, sharp), 0.95)
        assert found is not None
        low, high = found["interval"]
        excluded += low > 0 or high < 0
    assert excluded <= 2


def test_clusters_are_resampled_whole() -> None:
    def copies(side: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [item | {"cluster": str(i)} for i, item in enumerate(side) for _ in range(10)]

    base, tuned = drawn(150, 0.99, 0.75), drawn(150, 0.99, 0.99, seed=1)
    alone, copied = (
        probability_calibration(pairs_of(*sides), 0.95) for sides in ((base, tuned), (copies(base), copies(tuned)))
    )
    assert alone is not None and copied is not None
    assert copied["base"]["ece"] == pytest.approx(alone["base"]["ece"])
    assert copied["interval"] == pytest.approx(alone["interval"], abs=0.02)
    few = [item | {"cluster": str(i % 30)} for i, item in enumerate(base)]
    found = probability_calibration(pairs_of(few, few), 0.95)
    assert found is not None
    assert found["interval"] is None


def test_items_without_label_scores_are_not_looked_at() -> None:
    side, bare = [sure(0.8, True) for _ in range(4)], {"reference": " a", "prediction": " a"}
    assert probability_calibration(pairs_of([bare], [bare]), 0.95) is None
    assert probability_calibration([], 0.95) is None
    found = probability_calibration(pairs_of([*side, bare], [*side, sure(0.7, True)]), 0.95)
    assert found is not None
    assert found["base"]["items"] == found["tuned"]["items"] == 4


def test_nothing_is_said_where_labels_were_not_finished() -> None:
    """Of many labels those that could not win have no score, so the chosen one's share is not known."""
    whole = row({" a": -1.0, " b": -2.0, " c": -9.0}, " a")
    partial = row({" a": -1.0, " b": -2.0}, " a")
    assert probability_calibration(pairs_of([whole, whole], [whole, partial]), 0.95, labels=3) == {"note": UNFINISHED}
    assert probability_calibration(pairs_of([whole, whole], [whole, whole]), 0.95, labels=3) != {"note": UNFINISHED}
    # Items of other tools may have choices of their own, of any number.
    assert probability_calibration(pairs_of([whole, partial], [whole, partial]), 0.95) is not None


def test_a_label_chosen_by_its_mean_keeps_its_own_share() -> None:
    by_mean = row({" a": math.log(0.25), " long label": math.log(0.75)}, " a") | {"prediction": " a"}
    found = probability_calibration(pairs_of([by_mean], [by_mean]), 0.95)
    assert found is not None
    assert found["base"]["bins"][0]["confidence"] == pytest.approx(0.25)
    assert "2 of 2 answers are not the likeliest label as a whole" in found["note"]
    assert (
        "likeliest" not in (probability_calibration(pairs_of([sure(0.8, True)], [sure(0.8, True)]), 0.95) or {})["note"]
    )


def test_scores_far_below_zero_do_not_vanish() -> None:
    side = [row({"a": -9000.0, "b": -9000.0 - math.log(3)}, "a")]
    found = probability_calibration(pairs_of(side, side), 0.95)
    assert found is not None
    assert found["base"]["bins"][0]["confidence"] == pytest.approx(0.75)


@given(
    st.lists(st.tuples(st.floats(0.5, 1 - 1e-9), st.booleans(), st.floats(0.5, 1 - 1e-9)), min_size=1, max_size=130),
)
def test_any_answers_give_bins_that_hold_every_item_once(answers: list[tuple[float, bool, float]]) -> None:
    base = [sure(confidence, right) for confidence, right, _ in answers]
    tuned = [sure(confidence, right) for _, right, confidence in answers]
    found = probability_calibration(pairs_of(base, tuned), 0.95)
    assert found is not None
    for side in ("base", "tuned"):
        points = found[side]["bins"]
        assert sum(point["items"] for point in points) == len(answers)
        assert [p["confidence"] for p in points] == sorted(p["confidence"] for p in points)
        assert all(0 <= p["interval"][0] <= p["accuracy"] + 1e-12 for p in points)
        assert all(p["accuracy"] - 1e-12 <= p["interval"][1] <= 1 for p in points)
        assert 0 <= found[side]["ece"] <= 1
    assert (found["interval"] is None) == (len(answers) < 100)
    if found["interval"]:
        assert found["interval"][0] <= found["difference"] <= found["interval"][1]


@pytest.mark.parametrize(("right", "items"), [(0, 10), (1, 7), (50, 100), (20, 20)])
def test_wilson_equals_scipys(right: int, items: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(right, items).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(np.array([right / items]), np.array([items]), 0.95)
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_twenty_thousand_items_take_seconds() -> None:
    side = drawn(20_000, 0.99, 0.9)
    pairs = pairs_of(side, side)
    start = time.monotonic()
    found = probability_calibration(pairs, 0.95)
    assert found is not None
    assert time.monotonic() - start < 10
    assert found["base"]["ece"] == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize(
    "scores",
    [
        {" a": math.nan, " b": -1.0},
        {" b": -1.0, " a": math.nan},
        {" a": -math.inf, " b": -math.inf},
        {" a": -1.0, " b": math.inf},
    ],
)
def test_scores_that_give_no_share_leave_the_item_out(scores: dict[str, float]) -> None:
    good = [sure(0.8, i % 5 > 0) for i in range(40)]
    bad = [{"reference": " a", "prediction": prediction, "label_scores": scores} for prediction in (" a", " b")]
    found = probability_calibration(pairs_of(good + bad, good + [good[0]] * 2), 0.95)
    assert found is not None
    assert found["base"]["items"] == 40
    json.dumps(found, allow_nan=False)
    assert probability_calibration(pairs_of(bad, bad), 0.95) is None


def test_a_label_that_is_impossible_takes_no_share() -> None:
    side = [row({" a": -1.0, " b": -math.inf}, " a") for _ in range(20)]
    found = probability_calibration(pairs_of(side, side), 0.95)
    assert found is not None
    assert found["base"]["bins"][0]["confidence"] == 1
