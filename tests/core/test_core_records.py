"""Scores on disk, the hash that tells items apart, and JSON that other readers accept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunelift.core import files
from tunelift.core.errors import TuneliftError
from tunelift.core.records import Scores, as_text, content_hash


def test_a_content_hash_is_of_both_texts_and_stays_as_it_is() -> None:
    assert content_hash("a", "b") == "3554d2b8a1e34099"
    assert content_hash("a", "b") != content_hash("ab", "")


def test_half_a_character_is_hashed_like_any_other() -> None:
    assert content_hash("\ud83d", "b") != content_hash("\ud83e", "b")
    assert len(content_hash("\ud83d", "\udc00")) == 16


def test_text_stays_and_anything_else_becomes_json_in_one_order() -> None:
    assert as_text("é {") == "é {"
    assert as_text({"b": "é", "a": 1}) == as_text({"a": 1, "b": "é"}) == '{"a": 1, "b": "é"}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_without_finite_numbers_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "found.json"
    files.write_json(path, {"value": 1.0})
    with pytest.raises(TuneliftError, match=r"found\.json was not written: a value is NaN or infinite"):
        files.write_json(path, {"value": [value]})
    assert files.read_json(path) == {"value": 1.0}


def test_an_infinite_perplexity_is_null_in_metrics_json(tmp_path: Path) -> None:
    info = {"items": 1, "metrics": {"perplexity": {"value": math.inf, "items": 1}, "f1": {"value": 0.5}}}
    Scores([{"id": "1"}], info).save(tmp_path)

    def refused(name: str) -> float:
        raise AssertionError(name)

    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refused)
    assert written["metrics"] == {"perplexity": {"value": None, "items": 1}, "f1": {"value": 0.5}}
    assert info["metrics"]["perplexity"]["value"] == math.inf
