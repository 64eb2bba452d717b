"""Templates reach column values and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelift.core.errors import InputError
from tunelift.data.template import Template, as_text

NAMES = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=12)


def fill(text: str, row: dict[str, Any]) -> str:
    return Template(text, "data.prompt").fill(row, "a.csv, line 2")


def test_columns_and_braces() -> None:
    assert fill("Message: {text}\nIntent:{{x}}", {"text": "{y}"}) == "Message: {y}\nIntent:{x}"
    assert fill("{a b.c} {a}", {"a b.c": "1", "a": "2"}) == "1 2"
    assert fill("{a}", {}) == ""


@pytest.mark.parametrize("text", ["{", "}", "{a", "a}", "{}", "{a} {", "{{}"])
def test_braces_that_do_not_match(text: str) -> None:
    with pytest.raises(InputError, match=r"data\.prompt: .* names no column"):
        Template(text, "data.prompt")


@pytest.mark.parametrize("text", ["{text.__class__}", "{text[0]}", "{text!r}", "{text:>9}", "{0}"])
def test_fields_are_plain_names_and_reach_no_attribute(text: str) -> None:
    template = Template(text, "data.prompt")
    assert template.fill({"text": "secret"}, "here") == ""
    assert len(template.problems(["text"], "a.csv")) == 1


@given(st.dictionaries(NAMES, st.text(max_size=20), min_size=1, max_size=4), st.text(max_size=20))
def test_any_column_name_is_found_and_values_stay_as_they_are(row: dict[str, str], literal: str) -> None:
    template = literal.replace("{", "{{").replace("}", "}}") + "".join(f"{{{name}}}" for name in row)
    assert fill(template, row) == literal + "".join(row.values())


def test_a_missing_column_is_named_with_the_nearest() -> None:
    problem = Template("{txt} {txt}", "data.prompt").problems(["text", "label"], "a.csv")
    assert problem == [
        'data.prompt names the column "txt", which a.csv does not have. Did you mean "text"? Its columns: text, label.'
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1.0"), (True, "true"), (None, ""), (float("nan"), ""), ("a", "a")],
)
def test_values_as_text(value: Any, text: str) -> None:
    assert as_text(value, "here") == text


@pytest.mark.parametrize("value", [math.inf, -math.inf, "a\ud83d"])
def test_what_is_no_number_and_no_text_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r'line 2, column "text" holds (an infinite number|half of a character)'):
        fill("{text}", {"text": value})


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_nested_values_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match='line 2, column "text" holds a'):
        fill("{text}", {"text": value})
