"""Metrics over texts and labels, on answers whose value is known by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tunelift.metrics import Answer, text


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [(" Sports", "Sports", 1), ("Sports\n", " Sports", 1), ("sports", "Sports", 0), ("Sport", "Sports", 0)],
)
def test_accuracy_compares_stripped_labels(prediction: str, reference: str, value: float) -> None:
    assert text.accuracy(Answer(prediction, reference)) == value


def test_exact_match_folds_white_space_only() -> None:
    assert text.exact_match(Answer(" a  b\nc ", "a b c")) == 1
    assert text.exact_match(Answer("A b c", "a b c")) == 0
    assert text.exact_match(Answer("ab c", "a b c")) == 0


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("3 + 4 = 7, so 7 apples.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("It costs $1,234.50.", "1234.50"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("about 12.5%", "12.5"),
        ("The answer is 18.", "18"),
        ("so it is .5", "0.5"),
        ("7-3", "3"),
        ("the sum of 7 and -3", "-3"),
        ("Answer:\n- 3 apples", "3"),
        ("#### 18\n\nQuestion: Tom has 5 pens. #### 99", "18"),
        ("####\n 42", "42"),
        ("first 1,2,3", "3"),
    ],
)
def test_final_number(written: str, number: str) -> None:
    assert text.final_number(written) == Decimal(number)


@pytest.mark.parametrize("written", ["", "no number", "12 of them ####", "12 #### none"])
def test_no_final_number(written: str) -> None:
    assert text.final_number(written) is None


def test_numeric_match_compares_decimals() -> None:
    assert text.numeric_match(Answer("so $18.00", "9 + 9 = <<9+9=18>>18\n#### 18")) == 1
    assert text.numeric_match(Answer("so 180", "#### 18")) == 0
    assert text.numeric_match(Answer("none", "#### 18")) == 0


def test_numeric_match_without_a_number_in_the_reference_compares_text() -> None:
    assert text.numeric_match(Answer("no  solution", "no solution")) == 1
    assert text.numeric_match(Answer("nothing", "no solution")) == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in Paris, France", "Paris", 0.5),  # one of three words is right, all of one found: 2 * 1 / (3 + 1)
        ("red red blue", "red blue blue", 2 * 2 / 6),
        ("cat", "dog", 0.0),
        ("the", "a", 1.0),
        ("", "dog", 0.0),
    ],
)
def test_f1_is_the_overlap_of_bags_of_words(prediction: str, reference: str, value: float) -> None:
    assert text.f1(Answer(prediction, reference)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("the gunman killed police", "police killed the gunman", 0.5),  # "the gunman" is 2 of 4 words on both sides
        ("Police killed, the gunman!", "police killed the gunman", 1.0),
        ("a b c", "a c d e f", 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)),
        ("", "x", 0.0),
    ],
)
def test_rouge_l_is_the_longest_common_subsequence(prediction: str, reference: str, value: float) -> None:
    assert text.rouge_l(Answer(prediction, reference)) == pytest.approx(value)
