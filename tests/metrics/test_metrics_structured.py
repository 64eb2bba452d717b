"""Answers that are to have a form: JSON, a schema, a regular expression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
import tunelift
from tunelift.comparison import compare
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.metrics import METRICS, Answer, bounds, direction, resolve

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "minLength": 1}},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def value(metric: str, said: str) -> float:
    (found,) = resolve([metric])
    assert found.score is not None
    return found.score(Answer(said, ""))


@pytest.fixture
def schema(tmp_path: Path) -> str:
    (tmp_path / "trip.json").write_text(json.dumps(SCHEMA))
    return f"json_schema:{tmp_path / 'trip.json'}"


@given(VALUES)
def test_what_json_writes_is_json(written: Any) -> None:
    assert value("json_valid", f" {json.dumps(written)}\n") == 1


@pytest.mark.parametrize(
    "said",
    ["", "{", "{'a': 1}", '{"a": 1} and so on', "NaN", "[Infinity]", "01", "[" * 100_000, '```json\n{"a": 1}\n```'],
)
def test_what_is_no_json(said: str, schema: str) -> None:
    assert value("json_valid", said) == 0
    assert value(schema, said) == 0


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ('{"city": "Rome"}', 1), (' {"city": "Rome", "days": 3}\n', 1), ('{"city": ""}', 0), ('{"days": 3}', 0),
        ('{"city": "Rome", "days": 0}', 0), ('{"city": "Rome", "days": "3"}', 0), ('{"city": "Rome", "more": 1}', 0),
        ("null", 0),
    ],
)  # fmt: skip
def test_what_fits_a_schema(said: str, fits: float, schema: str) -> None:
    assert value(schema, said) == fits


@pytest.mark.parametrize(
    ("said", "fits"), [("2026-11", 1), (" 2026-11\n", 1), ("2026-1", 0), ("on 2026-11", 0), ("", 0), ("2026-11\n1", 0)]
)
def test_what_a_regular_expression_matches_whole(said: str, fits: float) -> None:
    assert value(r"regex_match:\d{4}-\d{2}", said) == fits


def test_what_cannot_be_read_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    files = {"no": "{", "wrong": '{"type": "cat"}', "away": '{"items": [{"$ref": "https://example.org/a.json"}]}'}
    files |= {
        "lacks": '{"properties": {"a": {"$ref": "#/$defs/no"}}}',
        "anchor": '{"$dynamicRef": "#no"}',
        "endless": '{"$ref": "#"}',
        "draft": '{"$schema": "https://example.org/draft", "type": "integer"}',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    for metric, said in (
        (f"json_schema:{tmp_path / 'none.json'}", r"none\.json does not exist"),
        (f"json_schema:{tmp_path / 'no.json'}", r"no\.json"),
        (f"json_schema:{tmp_path / 'wrong.json'}", r"wrong\.json is no schema"),
        (f"json_schema:{tmp_path / 'away.json'}", "refers to 'https://example.org/a.json'"),
        (f"json_schema:{tmp_path / 'lacks.json'}", r"refers to '#/\$defs/no', which is not in it"),
        (f"json_schema:{tmp_path / 'anchor.json'}", "refers to '#no', which is not in it"),
        (f"json_schema:{tmp_path / 'endless.json'}", "refers to itself without end"),
        (f"json_schema:{tmp_path / 'draft.json'}", "names a draft that is not known: 'https://example.org/draft'"),
        ("regex_match:(", "is no regular expression"),
        ("regex_match", 'The metric "regex_match" is of something'),
        ("json_valid:x", 'There is no metric "json_valid:x"'),
    ):
        with pytest.raises(InputError, match=said):
            resolve([metric])


def test_they_are_measured_and_compared(schema: str) -> None:
    rows = [{"prompt": f"the cat {i}", "completion": " mat"} for i in range(12)]
    model, names = tiny_models.causal("llama"), ["json_valid", schema, r"regex_match:.*", "exact_match"]
    base = tunelift.evaluate(model, tiny_models.tokenizer(), data=rows, metrics=names, max_new_tokens=4)
    assert list(base.metrics) == ["json_valid", "json_schema", "regex_match", "exact_match"]
    right = [{**row, "metrics": {**row["metrics"], "json_schema": 1.0}, "prediction": "{}"} for row in base.rows]
    found = compare(base, Scores(right, base.info)).to_dict()
    assert found["metrics"]["json_schema"]["tuned"] == 1.0
    for name in ("json_schema", "regex_match", "json_valid"):
        assert direction(name) is True
        assert bounds(name) == (0, 1)
    assert "json_valid" in METRICS


def test_an_answer_deeper_than_can_be_looked_through_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text('{"type": "array", "items": {"$ref": "#"}}')
    metric = f"json_schema:{tmp_path / 'tree.json'}"
    assert (value(metric, "[[[]]]"), value(metric, "[" * 600 + "]" * 600)) == (1, 0)
