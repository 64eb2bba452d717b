"""Metrics of a whole data set, made of counts: by hand, and as sacrebleu and scikit-learn have them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.core.errors import InputError
from tunelift.metrics import METRICS, Answer, aggregate, resolve, score_answer

TEXTS = [
    ("The cat sat on the mat, quietly.", "The cat sat on a mat, quietly."),
    ("the the the the", "the cat is on the mat"),
    ("A completely different answer was given here", "Nothing in common, not even one word"),
    ("", "an empty prediction"),
    ("short", "short"),
    ("It's 3.5% (not 4%).", "It's 3.5% (not 4%)."),
    ("Über die Brücke geht der Weg", "Über die Brücken geht ein Weg"),
    ("trailing spaces   ", "trailing spaces"),
]
Texts = Sequence[tuple[str, str]]


def rows(name: str, texts: Texts) -> list[dict[str, Any]]:
    return [score_answer(Answer(*text), resolve([name])) for text in texts]


def value(name: str, texts: Texts) -> float:
    return aggregate(METRICS.get(name), rows(name, texts))


def corpus_score(name: str, texts: Texts) -> float:
    from sacrebleu.metrics import BLEU, CHRF

    metric = {"bleu": BLEU, "chrf": CHRF}[name]()
    return float(metric.corpus_score([text for text, _ in texts], [[reference for _, reference in texts]]).score)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("part", [slice(None), *(slice(i, i + 1) for i in range(len(TEXTS))), slice(1, 5), slice(3, 5)])
def test_text_metrics_equal_sacrebleu(name: str, part: slice) -> None:
    assert value(name, TEXTS[part]) == pytest.approx(corpus_score(name, TEXTS[part]), abs=1e-6)


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", ".", "d'e", "5"]), max_size=9).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_text_metrics_equal_sacrebleu_on_any_words(texts: list[tuple[str, str]]) -> None:
    for name in ("bleu", "chrf"):
        assert value(name, texts) == pytest.approx(corpus_score(name, texts), abs=1e-6)


def test_bleu_by_hand() -> None:
    # Of 4 tokens 3 are found, of 3 pairs 2 ("on the", "the cat"), of 2 triples and the one run of four none: 1/2, then
    # 1/4 of a match. 4 tokens for a reference of 5 are penalised by exp(1 - 5/4).
    texts = [("mat on the cat", "the cat sat on the")]
    (row,) = rows("bleu", texts)
    assert row["counts"]["bleu"] == {
        "predicted tokens": 4, "reference tokens": 5,
        "matched 1": 3, "matched 2": 2, "matched 3": 0, "matched 4": 0,
        "predicted 1": 4, "predicted 2": 3, "predicted 3": 2, "predicted 4": 1,
    }  # fmt: skip
    by_hand = 100 * np.exp(1 - 5 / 4) * (3 / 4 * 2 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** 0.25
    assert value("bleu", texts) == pytest.approx(by_hand)


def test_macro_f1_by_hand() -> None:
    answers = [("x", "x"), (" x", "y"), ("x", "x"), ("y", " y"), ("z", "y")]
    assert [row["counts"]["macro_f1"] for row in rows("macro_f1", answers)] == [
        {"tp x": 1}, {"fp x": 1, "fn y": 1}, {"tp x": 1}, {"tp y": 1}, {"fp z": 1, "fn y": 1},
    ]  # fmt: skip
    assert value("macro_f1", answers) == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    assert rows("macro_f1", answers)[0]["metrics"] == {}


LABELS = st.sampled_from(["a", "b b", "c", "tp d"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30))
def test_macro_f1_equals_scikit_learns(answers: list[tuple[str, str]]) -> None:
    from sklearn.metrics import f1_score

    predicted, wanted = zip(*answers, strict=True)
    theirs = f1_score(wanted, predicted, average="macro", zero_division=0.0)
    assert value("macro_f1", answers) == pytest.approx(theirs)


def test_macro_f1_of_a_thousand_sets_equals_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    draw = random.Random(0)
    for _ in range(1000):
        labels = ["a", "b b", "c", "tp d", "e"][: draw.randint(1, 5)]
        wanted = draw.choices(labels, k=draw.randint(1, 30))
        predicted = [label if draw.random() < 0.5 else draw.choice(labels) for label in wanted]
        theirs = f1_score(wanted, predicted, average="macro", zero_division=0.0)
        assert value("macro_f1", list(zip(predicted, wanted, strict=True))) == pytest.approx(theirs)


@pytest.mark.parametrize("name", ["bleu", "chrf", "macro_f1"])
def test_formulas_take_many_selections_at_once(name: str) -> None:
    generator = np.random.default_rng(0)
    counts = [row["counts"][name] for row in rows(name, TEXTS)]
    names = list(dict.fromkeys(count for item in counts for count in item))
    table = np.array([[item.get(count, 0) for count in names] for item in counts])
    drawn = generator.integers(len(TEXTS), size=(50, len(TEXTS)))
    totals: Mapping[str, Any] = dict(zip(names, table[drawn].sum(axis=1).T, strict=True))
    formula = METRICS.get(name).from_counts
    assert formula is not None
    found = formula(totals)
    assert found.shape == (50,)
    for one, value_of in zip(drawn, found, strict=True):
        assert value_of == pytest.approx(value(name, [TEXTS[i] for i in one]))


def test_metrics_of_both_kinds_stand_apart_in_a_row() -> None:
    row = score_answer(Answer("x", "x"), resolve(["macro_f1", "accuracy", "exact_match"]))
    assert row == {"metrics": {"accuracy": 1, "exact_match": 1}, "counts": {"macro_f1": {"tp x": 1}}}
    assert "counts" not in score_answer(Answer("x", "x"), resolve(["accuracy"]))


def test_rows_without_counts_are_not_in_the_aggregate() -> None:
    (metric,) = resolve(["macro_f1"])
    scored = rows("macro_f1", [("x", "x"), ("y", "x")])
    assert aggregate(metric, [*scored, {"metrics": {}, "unscored": "too long"}]) == pytest.approx(2 / 3 / 2)
    with pytest.raises(InputError, match='No item has a value of "macro_f1"'):
        aggregate(metric, [{"metrics": {"macro_f1": 0.5}}])


def test_a_missing_package_is_named_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelift.metrics.registry.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        resolve(["bleu", "rouge_l", "macro_f1"])
    assert caught.value.problems == (
        'The metric "bleu" needs the package sacrebleu, which is not installed.',
        'The metric "rouge_l" needs the package rouge-score, which is not installed.',
    )
    assert caught.value.fix == "Install it: pip install 'tunelift[text]'."
