"""Metrics of sets of labels equal scikit-learn's; where its values are conventions, what is said here holds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tunelift.metrics import METRICS, Answer, aggregate, score_answer
from tunelift.metrics.label_sets import average_precision, threshold_of

NAMES = ["f1_micro", "f1_macro", "f1_samples", "subset_accuracy", "average_precision"]


def values(wanted: Any, scores: Any, threshold: float = 0.5) -> dict[str, float]:
    """Return what is aggregated of items' labels (items, labels) and their probabilities."""
    labels, all_of = [f"l {i}" for i in range(wanted.shape[1])], [METRICS.get(name) for name in NAMES]

    def joined(row: Any) -> str:
        return " | ".join(label for label, one in zip(labels, row, strict=True) if one)

    rows = [
        score_answer(
            Answer(joined(own >= threshold), joined(truth), scores=dict(zip(labels, own.tolist(), strict=True))), all_of
        )
        for truth, own in zip(wanted, scores, strict=True)
    ]
    return {metric.name: aggregate(metric, rows) for metric in all_of}


def of_scikit_learn(wanted: Any, scores: Any) -> dict[str, float]:
    predicted = scores >= 0.5
    occur, positive = (wanted | predicted).any(axis=0), wanted.any(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "f1_micro": sk.f1_score(wanted, predicted, average="micro"),
            "f1_macro": sk.f1_score(wanted[:, occur], predicted[:, occur], average="macro"),
            "f1_samples": sk.f1_score(wanted, predicted, average="samples", zero_division=1.0),
            "subset_accuracy": sk.accuracy_score(wanted, predicted),
            "average_precision": sk.average_precision_score(wanted[:, positive], scores[:, positive], average="macro"),
        }


def test_a_thousand_sets_equal_scikit_learns() -> None:
    draw, seen = np.random.default_rng(0), 0
    while seen < 1000:
        shape = (int(draw.integers(2, 40)), int(draw.integers(2, 8)))
        wanted = draw.random(shape) < draw.random()
        scores = draw.random(shape).round(int(draw.integers(1, 4)))  # with many that are equal
        if wanted.any():
            assert values(wanted, scores) == pytest.approx(of_scikit_learn(wanted, scores), abs=1e-12)
            seen += 1


def test_what_scikit_learn_sets_by_convention() -> None:
    wanted = np.array([[True, False, False], [False, False, False]])
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.3, 0.2]])
    found = values(wanted, scores)
    assert found == {"f1_micro": 1, "f1_macro": 1, "f1_samples": 1, "subset_accuracy": 1, "average_precision": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sk.f1_score(wanted, scores >= 0.5, average="macro") == pytest.approx(1 / 3)
        assert sk.f1_score(wanted, scores >= 0.5, average="samples") == 0.5
    nothing = values(np.zeros((2, 3), dtype=bool), np.zeros((2, 3)))
    assert nothing == {"f1_micro": 0, "f1_macro": 0, "f1_samples": 1, "subset_accuracy": 1, "average_precision": 0}


def test_an_item_that_a_selection_has_twice_is_two_items() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        wanted, scores = draw.random((15, 3)) < 0.4, draw.random((15, 3)).round(1)
        names = [*(f"score {i}" for i in range(3)), *(f"wanted {i}" for i in range(3))]
        items = dict(zip(names, np.concatenate([scores, wanted], axis=1).T.astype(float), strict=True))
        times = draw.poisson(1.0, size=(4, 15))
        for weights, found in zip(times, average_precision(items, times.astype(float)), strict=True):
            truth, own = np.repeat(wanted, weights, axis=0), np.repeat(scores, weights, axis=0)
            positive = truth.any(axis=0)
            if positive.any():
                expected = sk.average_precision_score(truth[:, positive], own[:, positive], average="macro")
                assert found == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30),
    st.floats(0, 1),
)
@settings(max_examples=300, deadline=None)
def test_no_threshold_is_better_than_the_one_that_is_chosen(pairs: list[tuple[float, bool]], other: float) -> None:
    scores, wanted = (np.array(side) for side in zip(*pairs, strict=True))
    best, threshold = threshold_of(scores, wanted)
    assert 0 <= threshold <= 1

    def f1(at: float) -> float:
        found = int((wanted & (scores >= at)).sum())
        return 2 * found / max(1, int((scores >= at).sum()) + int(wanted.sum()))

    assert f1(threshold) == pytest.approx(best)
    assert f1(other) <= best + 1e-12


def test_a_threshold_tells_neighbours_apart() -> None:
    _, threshold = threshold_of(np.array([5e-324, 0.0]), np.array([True, False]))
    assert threshold > 0


def test_brier_scores_equal_scikit_learns() -> None:
    draw = np.random.default_rng(3)
    for _ in range(1000):
        classes, items = int(draw.integers(2, 6)), int(draw.integers(2, 20))
        labels = [f"l {i}" for i in range(classes)]
        scores = draw.dirichlet(np.ones(classes), size=items)
        wanted = draw.integers(0, classes, size=items)
        answers = [
            Answer("", labels[one], scores=dict(zip(labels, row.tolist(), strict=True)))
            for one, row in zip(wanted, scores, strict=True)
        ]
        found = aggregate(METRICS.get("brier"), [score_answer(answer, [METRICS.get("brier")]) for answer in answers])
        truth = np.array(labels)[wanted]
        assert found == pytest.approx(sk.brier_score_loss(truth, scores, labels=labels, scale_by_half=False))
