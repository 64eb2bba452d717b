"""A judge's scores corrected by a person's labels: right however biased the judge is, and shorter where it is good."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tunelift.comparison.corrected import corrected
from tunelift.comparison.judged import Evidence, Marks, Wins, conclusion, lines

WINS = (0.0, 1.0)


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    sys.modules.pop("judge", None)


def test_simulated_judges_of_known_bias_are_corrected() -> None:
    """A seeded part of `benchmarks/judge.py`, which has all of it."""
    import judge

    found = [*judge.cells(2000, "20 labels, 100 others, better"), *judge.cells(2000, "50 labels, 1000 others, even, ")]
    assert len(found) == 2 * 4 + 2 * 8
    assert min(one.covered for one in found) >= 94
    biased = [one for one in found if "poor" in one.name]
    assert max(one.judge_alone for one in biased) < 80  # the judge's own interval does not hold
    good = [one for one in found if "nearly right" in one.name]
    assert all(one.width < 0.85 * one.labels_width for one in good)
    worst = [one for one in found if "worst" in one.name]
    assert all(one.width < 1.05 * one.labels_width for one in worst)  # nor does a bad one do harm


def test_what_is_known_by_hand() -> None:
    labels = np.array([[1.0, 0, 1, 1, 0, 1, 0, 1, 1, 1]])
    none = np.empty((1, 0))
    alone = corrected(labels, labels, none, WINS, 0.95)
    assert (alone.value[0], alone.weight[0]) == (0.7, 0)
    assert 0 < alone.low[0] < 0.5
    assert 0.9 < alone.high[0] <= 1
    shifted = corrected(labels, labels * 0.5, np.full((1, 1000), 0.35), WINS, 0.95)  # a judge who halves everything
    assert shifted.value[0] == pytest.approx(0.7, abs=0.01)
    contrary = corrected(labels, 1 - labels, 1 - np.tile(labels, 30), WINS, 0.95)
    assert contrary.weight[0] == 0  # it counts for nothing rather than against itself
    same = corrected(np.ones((1, 20)), np.ones((1, 20)), np.ones((1, 50)), WINS, 0.95)
    assert 0.7 < same.low[0] < 0.95  # twenty labels that are alike do not show that all are
    assert same.high[0] == 1
    marks = corrected(np.zeros((1, 20)), np.zeros((1, 20)), none, (-4.0, 4.0), 0.95, step=1.0)
    assert -0.5 < marks.low[0] < 0 < marks.high[0] < 0.5


def test_place_length_and_agreement_are_told_as_they_are() -> None:
    draw = np.random.default_rng(0)
    places = np.stack([np.ones(200), np.zeros(200)], axis=1)  # the first wins, whatever it says
    labels = (draw.random(40) < 0.8).astype(float)
    longer = draw.choice([-1.0, 1.0], 200)
    told = conclusion(Wins(), Evidence(200, labels, places.mean(axis=1), longer, places), "judge")
    assert told["position"] == {
        "first_wins_more": {"value": 0.5, "interval": [pytest.approx(0.48, abs=0.02), 0.5]}, "changed_by_swapping": 1.0,
    }  # fmt: skip
    assert told["weight"] == 0
    assert told["agreement"]["same"] == 0
    assert "It is worth no label" in " ".join(lines(told))
    by_length = (longer + 1) / 2
    told = conclusion(Wins(), Evidence(200, labels, by_length, longer), "judge")
    assert told["length"]["longer_wins_more_than_the_person_says"]["interval"][0] > 0.2
    assert "position" not in told
    perfect = np.concatenate([labels, (draw.random(160) < 0.8)])
    told = conclusion(Wins(), Evidence(200, labels, perfect, longer), "judge")
    assert told["verdict"] == "better"
    assert told["agreement"]["same"] == 1
    assert "labels more" in " ".join(lines(told))
    whole = conclusion(Wins(), Evidence(40, labels, labels, longer[:40]), "judge")
    assert "counts for nothing" in " ".join(lines(whole))
    worse = conclusion(Marks(), Evidence(40, -labels, np.empty(0), longer[:40]), "person")
    assert (worse["verdict"], worse["value"]) == ("worse", pytest.approx(-labels.mean()))
