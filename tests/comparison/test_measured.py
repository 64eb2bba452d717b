"""What is collected of two sides: values or counts, their aggregates, and the items behind a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tunelift.comparison import compare
from tunelift.comparison.effects import effect_of
from tunelift.comparison.flips import find_flips
from tunelift.comparison.measured import Measured, common_metrics, measure
from tunelift.comparison.paired_tests import Effect
from tunelift.comparison.pairing import join, pair, read_side
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.metrics import METRICS, Answer, aggregate, resolve, score_answer

Row = dict[str, Any]

REFERENCES = ["x", "x", "y", "y", "y", "z"] * 5
BASE = ["x", "y", "y", "x", "y", "x"] * 5
TUNED = ["x", "x", "y", "y", "x", "z"] * 5


def rows(predictions: Sequence[str], references: Sequence[str] = REFERENCES, *names: str) -> list[Row]:
    metrics = resolve(names or ["macro_f1", "accuracy"])
    return [
        {"id": str(i), "input": f"text {i}", "reference": wanted, "prediction": predicted}
        | score_answer(Answer(predicted, wanted), metrics)
        for i, (predicted, wanted) in enumerate(zip(predictions, references, strict=True))
    ]


def measured(name: str, base: Any, tuned: Any) -> Measured:
    one, other = read_side(base, "base"), read_side(tuned, "tuned")
    return measure(name, one, other, pair(one, other)[0])


def test_counts_of_both_sides_share_their_columns() -> None:
    found = measured("macro_f1", rows(BASE), rows(TUNED))
    assert found.base.shape == found.tuned.shape == (30, 9 - 1)  # nobody says z where it is wrong: no "fp z"
    assert found.aggregates == pytest.approx([aggregate(METRICS.get("macro_f1"), rows(side)) for side in (BASE, TUNED)])
    assert found.higher_is_better
    own = found.by_pair
    assert own[0].tolist() == [float(a == b) for a, b in zip(BASE, REFERENCES, strict=True)]


def test_the_effect_is_made_of_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(base: Any, tuned: Any, value: Any, clusters: Any, level: float) -> Effect:
        assert base.shape == tuned.shape == (30, 8)
        assert clusters is None
        both = value(np.stack([base.sum(axis=0), tuned.sum(axis=0)]))
        assert value(base).shape == (30,)
        return Effect(float(both[1] - both[0]), f"stand-in at {level}")

    monkeypatch.setattr("tunelift.comparison.resampling.corpus_effect", stand_in, raising=False)
    found = measured("macro_f1", rows(BASE), rows(TUNED))
    effect = effect_of(found, 0.9)
    assert effect.test == "stand-in at 0.9"
    assert effect.difference == pytest.approx(found.aggregates[1] - found.aggregates[0])


def test_a_corpus_metric_is_compared_and_keeps_its_declared_place() -> None:
    declared = {"metrics": {"macro_f1": {"value": 0.5, "higher_is_better": True}, "accuracy": {"value": 0.5}}}
    base, tuned = Scores(rows(BASE * 4, REFERENCES * 4), declared), rows(TUNED * 4, REFERENCES * 4)
    comparison = compare(base, tuned)
    assert comparison.headline == "macro_f1"
    assert list(comparison.metrics) == ["macro_f1", "accuracy"]
    result = comparison.metrics["macro_f1"]
    assert result.verdict.word == "better"
    low, high = result.effect.interval or (0, 0)
    assert 0 < low < result.effect.difference < high
    assert result.effect.difference == pytest.approx(result.tuned - result.base)


def test_rows_with_counts_only_are_scored() -> None:
    base, tuned = rows(BASE, REFERENCES, "macro_f1"), rows(TUNED, REFERENCES, "macro_f1")
    for row in tuned:
        del row["metrics"]
    one, other = read_side(base, "base"), read_side(tuned, "tuned")
    pairs, left_out = pair(one, other)
    assert (len(pairs), left_out) == (30, [])
    assert common_metrics(one, other, pairs) == (["macro_f1"], [])


def test_flips_of_macro_f1_are_labels_that_changed() -> None:
    flips = find_flips(measured("macro_f1", rows(BASE), rows(TUNED)))
    changed = [
        (str(i), before, after) for i, (before, after) in enumerate(zip(BASE, TUNED, strict=True)) if before != after
    ]
    assert sorted((flip["id"], flip["base"], flip["tuned"]) for flip in flips) == sorted(changed)
    directions = {flip["id"]: flip["direction"] for flip in flips}
    assert directions["4"] == "lost"
    assert directions["1"] == directions["3"] == directions["5"] == "gained"
    assert flips[0]["direction"] == "lost"


def test_flips_of_a_text_metric_are_ranked_by_the_texts_own_value() -> None:
    wanted = ["one two three four five"] * 3
    base = ["one two three four five", "one two three", "zzz"]
    tuned = ["one two", "one two three four", "zzz"]
    flips = find_flips(measured("chrf", rows(base, wanted, "chrf"), rows(tuned, wanted, "chrf")))
    assert [(flip["id"], flip["direction"]) for flip in flips] == [("0", "lost"), ("1", "gained")]
    own = aggregate(METRICS.get("chrf"), rows(tuned[:1], wanted[:1], "chrf"))
    assert flips[0]["change"] == pytest.approx(own - 100)


def test_a_pair_without_counts_on_a_side_is_not_in_the_values_and_allows_no_verdict() -> None:
    tuned = rows(TUNED)
    tuned[3]["counts"] = {}
    found = measured("macro_f1", rows(BASE), tuned)
    assert [tuple(item) for item in found.left_out] == [("3", "no counts of macro_f1 for tuned")]
    assert (found.items, found.one_sided) == (29, 1)
    assert found.over(found.both).aggregates == found.aggregates
    effect = effect_of(found, 0.95)
    assert (effect.interval, effect.p, effect.one_sided) == (None, None, 1)
    assert "29 of 30 items are scored on both sides" in (effect.missing or "")


def test_counts_without_a_formula_cannot_be_compared() -> None:
    def foreign(side: list[Row]) -> list[Row]:
        return [row | {"counts": {"ter": {"edits": 1, "words": 4}}} for row in side]

    base, tuned = foreign(rows(BASE)), foreign(rows(TUNED))
    found = measured("ter", base, tuned)
    assert found.pairs == []
    assert found.left_out[0].reason == "ter is given by counts, and tunelift has no formula for it"
    assert any("ter" in note for note in compare(base, tuned, metric="accuracy").notes)
    with pytest.raises(InputError, match="ter"):
        compare(base, tuned, metric="ter")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"bleu": {"hits": 3}}, "The counts of bleu lack 'matched 1', in every row"),
        ({"bleu": {"matched 1": "many"}}, "has counts of bleu = {'matched 1': 'many'}"),
        ({"bleu": 0.5}, "has counts of bleu = 0.5"),
        ([1], r"has counts = \[1\]"),
    ],
)
def test_counts_that_are_none_are_refused(counts: Any, message: str) -> None:
    side = [row | {"counts": counts} for row in rows(BASE, REFERENCES, "accuracy")]
    with pytest.raises(InputError, match=message):
        measured("bleu", side, side)


def test_a_well_known_name_has_its_direction_in_rows_without_metrics_json() -> None:
    def side(value: float) -> list[Row]:
        return [
            {"id": str(i), "input": f"a{i}", "reference": "b", "metrics": {"wer": value * (i + 9)}} for i in range(30)
        ]

    found = compare(side(0.9), side(0.2))
    assert not found.metrics["wer"].higher_is_better
    assert found.metrics["wer"].verdict.word == "better"


def test_a_direction_is_known_of_a_side_or_the_name_or_not_at_all() -> None:
    row = {"id": "1", "input": "a", "reference": "b", "metrics": {"helpfulness": 1.0, "wer": 0.1}}
    plain = read_side([row], "base")
    told = read_side(Scores([row], {"metrics": {"helpfulness": {"value": 1.0, "higher_is_better": False}}}), "tuned")
    found = {
        (name, side.name): measure(name, plain, side, join(plain, side, ["1"])).higher_is_better
        for name in ("helpfulness", "wer")
        for side in (plain, told)
    }
    assert found == {
        ("helpfulness", "base"): None,
        ("helpfulness", "tuned"): False,
        ("wer", "base"): False,
        ("wer", "tuned"): False,
    }


@pytest.mark.parametrize("lost", ["predicted 0", "wanted 0"])
def test_numbers_that_a_row_lacks_are_not_taken_for_zero(lost: str) -> None:
    wanted = [str(i) for i in range(12)]
    base = rows([str(11 - i) for i in range(12)], wanted, "pearson")
    tuned = rows([str(i % 5) for i in range(12)], wanted, "pearson")
    assert measured("pearson", base, tuned).aggregates[0] == pytest.approx(-1)
    del tuned[3]["counts"]["pearson"][lost]
    with pytest.raises(InputError, match=f"counts of pearson of the item \"3\" lack '{lost}' in tuned"):
        compare(base, tuned)
    for row in [*base, *tuned]:
        row["counts"]["pearson"] = {"wanted 0": 1.0}
    with pytest.raises(InputError, match="The counts of pearson lack 'predicted 0', in every row"):
        compare(base, tuned)


@pytest.mark.parametrize("lost", ["items", "squared 0"])
def test_a_count_that_every_item_has_is_not_taken_for_zero(lost: str) -> None:
    wanted = [str(i) for i in range(12)]
    base, tuned = (rows([str(i % by) for i in range(12)], wanted, "rmse") for by in (4, 5))
    del base[2]["counts"]["rmse"][lost]
    with pytest.raises(InputError, match=f"counts of rmse of the item \"2\" lack '{lost}' in base"):
        compare(base, tuned)


def test_intervals_end_where_the_scale_of_their_metric_does() -> None:
    """Of few items and clusters a t interval goes on: that of two accuracies to -2.7, of two correlations to 1.6."""
    draw = np.random.default_rng(0)
    wanted = [str(i) for i in range(9)]
    far = [str(v) for v in draw.normal(size=9).round(3).tolist()]
    found = compare(rows(far, wanted, "pearson"), rows(list(reversed(far)), wanted, "pearson")).metrics["pearson"]
    assert found.effect.interval is not None
    assert -2 <= found.effect.interval[0] < found.effect.interval[1] <= 2
    sides = []
    for right in (range(24), range(24, 32)):
        side = rows(["a" if i in right else "b" for i in range(32)], ["a"] * 32, "accuracy", "macro_f1")
        sides.append([row | {"cluster": str(min(i, 7))} for i, row in enumerate(side)])
    clustered = compare(*sides)
    for name in ("accuracy", "macro_f1"):
        interval = clustered.metrics[name].effect.interval
        assert interval is not None and -1 <= interval[0] <= interval[1] <= 1, name
    points = [
        [{key: value for key, value in row.items() if key != "counts"} | {"metrics": {"points": float(i % by)}}
         for i, row in enumerate(side)]
        for side, by in zip(sides, (3, 17), strict=True)
    ]  # fmt: skip
    wide = compare(*points)
    assert wide.metrics["points"].effect.interval is not None
    assert wide.metrics["points"].effect.interval[1] > 1  # a table's own numbers have no scale that is known
