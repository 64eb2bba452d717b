"""The report as Markdown: the comparison's figures, short, and texts of others that stay texts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reporting_run_folder import classification_run, full_run, generation_run

from tunelift.core import files
from tunelift.reporting import wording, write_markdown
from tunelift.reporting.markdown import MOST_FLIPS, code, fenced, plain

ENTRY_COLUMNS = 7
ESCAPED = "\N{BROKEN BAR}"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run(tmp_path_factory.mktemp("markdown") / "run")


@pytest.fixture(scope="module")
def text(full: Path) -> str:
    return write_markdown(full).read_text(encoding="utf-8")


def entries(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every entry under the name its row has."""
    named = {**comparison["metrics"], "base": comparison["metrics"]["accuracy"], **comparison["baselines"]}
    for column in comparison["slices"].values():
        named |= {f"{value} ({entry['items']} items)": entry for value, entry in column.items()}
    kept = comparison["forgetting"]
    return named | {f"{name} ({wording.measure(entry['metric'])})": entry for name, entry in kept.items()}


def rows(text: str) -> list[list[str]]:
    lines = [line.strip("| ").replace(r"\|", ESCAPED) for line in text.splitlines() if line.startswith("| ")]
    cells = [line.split(" | ") for line in lines]
    return [row for row in cells if len(row) == ENTRY_COLUMNS and row[-1] not in ("verdict", "---")]


def test_every_row_has_the_figures_of_the_comparison(full: Path, text: str) -> None:
    comparison = files.read_json(full / "comparison.json")
    found = entries(comparison)
    body = text[: text.index("Without the test items")]
    assert len(rows(body)) == 2 + 4 + 3 + 12 + 2
    for name, base, tuned, difference, interval, p, verdict in rows(body):
        entry = found[name.replace(ESCAPED, "|")]
        assert base == wording.number(entry["base"])
        assert tuned == wording.number(entry["tuned"])
        assert difference == wording.signed(entry["difference"])
        assert interval == wording.interval(entry["interval"])
        assert p.startswith(wording.p_figure(entry["p"]))
        assert verdict == entry["verdict"]


def test_what_is_not_in_a_table_is_said(text: str) -> None:
    assert "On 80 validation rows: base 0.613, few-shot 0.675, majority 0.237, tf-idf 0.787." in text
    assert "base 0.112, tuned 0.041, difference \N{MINUS SIGN}0.071" in text
    assert "| smallest difference | none | 0.034 | 0.052 |" in text
    assert "each seed: +0.241, +0.228" in text
    assert "Without the test items that repeat a training row (10)" in text
    assert "Of 50 test items the base continues 2 word for word." in text
    assert "energy 48.2 kJ (13.4 Wh)" in text


def test_the_verdict_comes_first(full: Path, text: str) -> None:
    sentence = files.read_json(full / "comparison.json")["headline"]["sentence"]
    assert text.splitlines()[2] == f"**{sentence}**"


def test_it_is_short_with_few_flips(tmp_path: Path) -> None:
    text = write_markdown(generation_run(tmp_path / "run", items=300)).read_text(encoding="utf-8")
    assert len(re.findall("^\\* (?:lost|gained), item", text, flags=re.MULTILINE)) == MOST_FLIPS
    assert len(text) < 12_000


def test_where_few_were_lost_more_of_the_gained_are_shown(tmp_path: Path) -> None:
    folder = classification_run(tmp_path / "run", items=60)
    comparison = files.read_json(folder / "comparison.json")
    comparison["flips"]["lost"] = comparison["flips"]["lost"][:1]
    files.write_json(folder / "comparison.json", comparison)
    text = write_markdown(folder).read_text(encoding="utf-8")
    assert (text.count("\n* lost, item"), text.count("\n* gained, item")) == (1, MOST_FLIPS - 1)


def test_a_run_with_nothing_but_events_has_a_report(tmp_path: Path) -> None:
    files.write_text(tmp_path / "run" / "events.jsonl", json.dumps({"event": "start", "format": 1}) + "\n")
    assert "No verdict" in write_markdown(tmp_path / "run").read_text(encoding="utf-8")


@given(st.text())
def test_texts_of_others_stay_in_their_line_and_code(text: str) -> None:
    span = code(text)
    assert "\n" not in span
    fence = re.match("`+", span)
    if fence is None:
        assert span == "(nothing)"
    else:
        assert span.endswith(fence[0])
        assert fence[0] not in re.findall("`+", span[len(fence[0]) : -len(fence[0])])


def test_nothing_in_a_plain_text_is_markup() -> None:
    assert plain("[a](b) <img> `x` | *y* _z_\n# t") == r"\[a\](b) \<img> \`x\` \| \*y\* \_z\_ # t"
    assert plain("> quoted") == r"\> quoted"
    assert fenced("a ``` b").startswith("````\n")
