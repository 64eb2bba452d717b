"""Delimited text: which delimiter, which header, rows that fit it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelift.core.errors import InputError
from tunelift.core.text_table import DELIMITERS, delimiter_of, read_text_table


def read(
    folder: Path, text: str, names: list[str] | None = None, delimiter: str | None = None
) -> tuple[list[str], list[list[str]]]:
    path = folder / "a.csv"
    path.write_bytes(text.encode())
    table = read_text_table(path, delimiter, names)
    return table.header, [fields for _, fields in table.rows]


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_the_delimiter_is_told_by_the_first_records(tmp_path: Path, delimiter: str) -> None:
    text = "text,label\na b,x\nc d,y\n".replace(",", delimiter)
    assert read(tmp_path, text) == (["text", "label"], [["a b", "x"], ["c d", "y"]])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('text,label\n"a; b; c",x\n"d; e; f",y\n', [["a; b; c", "x"], ["d; e; f", "y"]]),
        ('text;label\n"a, b, c";x\nd, e;y\n', [["a, b, c", "x"], ["d, e", "y"]]),
        ('"one; two; three",label\na,x\n', [["a", "x"]]),
        ("id;score\n1;0,5\n2;0,75\n", [["1", "0,5"], ["2", "0,75"]]),
        ("text|label\na, b|x\nc; d|y\n", [["a, b", "x"], ["c; d", "y"]]),
        ("text\tlabel\na, b\tx\nc, d\ty\n", [["a, b", "x"], ["c, d", "y"]]),
        ('text\tlabel\n"a\tx\n', [['"a', "x"]]),
        ("good; bad\nfine\nwell\n", [["fine"], ["well"]]),
        ("text\na; b\nc; d\n", [["a; b"], ["c; d"]]),
        ('text;label\n"a\nb";x\n"c ""d""; e";y\n', [["a\nb", "x"], ['c "d"; e', "y"]]),
    ],
)
def test_what_is_no_delimiter_is_text(tmp_path: Path, text: str, rows: list[list[str]]) -> None:
    assert read(tmp_path, text)[1] == rows


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("first", ["sep={}", '"sep={}"', "\ufeffsep={}", "SEP={}"])
def test_a_first_line_that_names_the_delimiter_is_no_record(tmp_path: Path, delimiter: str, first: str) -> None:
    """As spreadsheets write it, and read it."""
    lines = ["a,\t b;\t c|d", "1,\t 2;\t 3|4"]
    text = "\r\n\r\n".join([first.format(delimiter), *lines])
    names, fields = (line.split(delimiter) for line in lines)
    assert read(tmp_path, text) == ([name.strip() for name in names], [fields])
    assert read(tmp_path, text, [f"c{n}" for n in range(len(names))])[1] == [names, fields]


def test_a_column_called_sep_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, "sep=,b\n1,2\n") == (["sep=", "b"], [["1", "2"]])
    assert read(tmp_path, "sep=:\na:b\n") == (["sep=:"], [["a:b"]])


def test_names_make_the_first_record_a_row_unless_it_is_they(tmp_path: Path) -> None:
    assert read(tmp_path, "0;one\n1;two\n", ["label", "text"]) == (["label", "text"], [["0", "one"], ["1", "two"]])
    assert read(tmp_path, "Label;TEXT\n1;two\n", ["label", "text"]) == (["label", "text"], [["1", "two"]])
    assert read(tmp_path, "a; b, c, d\ne; f, g, h\n", ["1", "2"])[1] == [["a", " b, c, d"], ["e", " f, g, h"]]
    assert read(tmp_path, "one\ntwo\n", ["text"])[1] == [["one"], ["two"]]


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("a;b\n1;2;3\n", "line 2: 3 fields for 2 columns", "a field that holds a semicolon stands in quotes"),
        ("a,b\n1,2\n1\n", "line 3: 1 fields for 2 columns", "a field that holds a comma stands in quotes"),
        ("a\tb\n1\t2\t\n", "line 2: 3 fields", "tabs, which cannot stand in a field"),
        ("a,b,a\n1,2,3\n", 'the column name "a" stands more than once', "data.columns"),
        ('a;b\n1;2\n"open;2\n', "line 3: not valid csv", "every quoted field ends with a quote"),
        ("a,b\n1,2,\n3,4,\n", "line 2: 3 fields for 2 columns", "one field per column"),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_their_line(tmp_path: Path, text: str, message: str, fix: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, text)
    assert fix in str(error.value.fix)


def test_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: 2 fields for 3 columns"):
        read(tmp_path, "1,2\n3,4\n", ["a", "b", "c"])
    with pytest.raises(InputError, match="line 1: 2 fields for 1 columns"):
        read(tmp_path, "1,2\n3,4\n", ["a"])


FIELDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.sampled_from(",;|"), st.lists(st.tuples(FIELDS, FIELDS.filter(str.strip)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_csv_writes_is_read_back(tmp_path: Path, delimiter: str, rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter).writerows([("text", "label"), *rows])
    assert read(tmp_path, written.getvalue()) == (["text", "label"], [list(row) for row in rows])


def test_the_beginning_alone_is_looked_at_and_the_limit_of_csv_is_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = tmp_path / "a.csv"
    path.write_text("a;b\n" + "1;2\n" * 5000 + '"' + "x" * 300_000 + '";2\n')
    assert delimiter_of(path) == ";"
    table = read_text_table(path)
    assert sum(1 for _ in table.rows) == 5001
    assert csv.field_size_limit() == limit
