"""Files to rows, and errors that name the file, the line and what to do."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelift.core import parquet_files, text_files
from tunelift.core.errors import InputError
from tunelift.data.formats import FORMATS, read_file, with_class_names
from tunelift.data.sources import read_rows

SAME_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# csv has no way to write a row whose fields are all blank, and NUL is refused.
FIELDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
ROWS = st.lists(st.tuples(FIELDS, FIELDS.filter(str.strip)), min_size=1, max_size=5)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.csv", 'text,label\r\n"a, ""b""\nc",x\r\n\r\nd,y\r\n', [('a, "b"\nc', "x"), ("d", "y")]),
        ("a.tsv", 'text\tlabel\n"a\tx\nb "" c\ty\n', [('"a', "x"), ('b "" c', "y")]),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "label": 2.5}\n', [("a", 1), ("b", 2.5)]),
        ("a.json", '[{"text": "a", "label": true}]', [("a", True)]),
        ("A.JSON", '{"data": [{"text": "a", "label": null}]}', [("a", None)]),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str, rows: list[tuple[Any, Any]]) -> None:
    table = read_file(write(tmp_path, name, content))
    assert [(row["text"], row["label"]) for row in table.rows] == rows
    assert table.columns == ["text", "label"]


def test_txt_is_a_row_per_line(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "a.txt", "one\n\ntwo\u2028still two\r\n"))
    assert table.rows == [{"text": "one"}, {"text": "two\u2028still two"}]
    assert table.where(1).endswith("a.txt, line 3")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": "a", "messages": [{"role": "user", "content": "x"}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet").rows == rows
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_file(write(tmp_path, "b.parquet", "not parquet"))


def test_class_numbers_in_parquet_are_named_by_its_own_metadata(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label, tag = datasets.ClassLabel(names=["no", "yes"]), datasets.ClassLabel(names=["O", "B"])
    struct = {"kind": label, "n": datasets.Value("int64")}
    features = datasets.Features({"label": label, "tags": datasets.List(tag), "s": struct, "n": datasets.Value("int8")})
    row = {"label": 1, "tags": [0, 1], "s": {"kind": 0, "n": 1}, "n": 1}
    made = datasets.Dataset.from_list([row, {**row, "label": None}, {**row, "label": -1}], features=features)
    made.to_parquet(tmp_path / "a.parquet")
    named = {"label": "yes", "tags": ["O", "B"], "s": {"kind": "no", "n": 1}, "n": 1}
    expected = [named, {**named, "label": None}, {**named, "label": None}]
    assert read_file(tmp_path / "a.parquet").rows == expected == read_rows(made).rows


@pytest.mark.parametrize(
    ("features", "label"),
    [
        ({"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}, "yes"),
        ({"label": {"names": "no", "_type": "ClassLabel"}}, 1),
        ({"label": {"names": {"_type": "Value"}}}, 1),
        ([1], 1),
        (None, 1),
        ({"label": {"names": ["no"], "_type": "ClassLabel"}}, "row 1: the class 1 has no name"),
        ("{", "its metadata: not valid JSON"),
    ],
)
def test_the_metadata_of_parquet_is_not_trusted(tmp_path: Path, features: Any, label: Any) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    text = features if features == "{" else json.dumps({"info": {"features": features}})
    table = pyarrow.table({"label": [1]}).replace_schema_metadata({"huggingface": text})
    parquet.write_table(table, tmp_path / "a.parquet")
    try:
        assert read_file(tmp_path / "a.parquet").rows == [{"label": label}]
    except InputError as error:
        assert str(label) in str(error)


def test_classes_that_an_older_datasets_wrote_in_a_struct_of_lists_are_named() -> None:
    kind = {"feature": {"k": {"names": ["x", "y"], "_type": "ClassLabel"}}, "_type": "Sequence"}
    assert list(with_class_names([{"s": {"k": [1, 0]}}], {"s": kind}, "a")) == [{"s": {"k": ["y", "x"]}}]


def test_columns_name_the_columns_of_a_file_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "0\tone\n1\ttwo\n")
    assert read_file(path, ["label", "text"]).rows == [{"label": "0", "text": "one"}, {"label": "1", "text": "two"}]
    with pytest.raises(InputError, match="line 1: 2 fields for 3 columns"):
        read_file(path, ["a", "b", "c"])
    with pytest.raises(InputError, match="files without a header"):
        read_file(write(tmp_path, "a.jsonl", "{}\n"), ["label", "text"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "a.csv", "text\ngrüße 日本\n".encode(encoding))
    assert read_file(path).rows == [{"text": "grüße 日本"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"\n \n", "no rows"),
        ("a.csv", b"text,label\n", "no rows"),
        ("a.csv", b"text,text\na,b\n", '"text" stands more than once'),
        ("a.csv", b"text,label\na,b\nc\n", "line 3: 1 fields for 2 columns"),
        ("a.csv", b'text,label\n"a\nb",c\nd,e,f\n', "line 4: 3 fields"),
        ("a.csv", b'text,label\na,b\n"never closed,c\nd,e\n', "line 3: not valid csv"),
        (
            "a.csv",
            b"text\ngr\xfc\xdfe\n",
            "line 2: not UTF-8 text: byte 0xfc at column 3. The file seems to be WINDOWS-1252",
        ),
        ("a.csv", b"text\na\0b\n", "line 2: holds a NUL"),
        ("a.csv", "text\ngrüße\n".encode("utf-16-le"), "line 2: not UTF-8.*seems to be UTF-16LE"),
        ("a.csv", "text\nplain\n".encode("utf-16-le"), "line 1: holds a NUL.*seems to be UTF-16LE"),
        ("a.jsonl", '{"a": "grüße"}'.encode("utf-16-be"), "line 1: not UTF-8.*seems to be UTF-16BE"),
        ("a.csv", ",".join(f"c{n}" for n in range(2001)).encode() + b"\n1\n", "line 1: 2,001 columns"),
        ("a.tsv", b"a\tb\n" + b"\t" * 5000 + b"x\n", "line 2: 5,001 columns"),
        ("a.jsonl", b"".join(b'{"k%d": 1}\n' % n for n in range(2001)), "2,001 columns; a table may have 2,000"),
        ("a.csv", b'text,label\na,b\n"open,c\n' + b"d,e\n" * 50, "line 3: not valid csv .*reading on to line 53"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', 'line 2: .*the key "a" stands twice'),
        ("a.json", b'[{"a": {"b": 1, "b": 1}}]', 'the key "b" stands twice'),
        (
            "a.jsonl",
            b'{"a": ' + b"9" * 5000 + b"}",
            "line 1: JSON that cannot be read .a number has thousands of digits",
        ),
        ("a.jsonl", b'{"a": "x"}\n{"a": "\\ud83d"}\n', "line 2: holds half of a character"),
        ("a.json", b'[{"a": ' + b"[" * 70 + b"]" * 70 + b"}]", "nested more than 64 levels"),
        ("a.tsv", b"text\tlabel\na\n", "line 2: 1 fields"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2: a JSON object is expected, not list"),
        ("a.jsonl", b"[" * 100_000, "line 1: JSON that is nested more than 64 levels"),
        ("a.json", b'{"a": 1}', "holds no list of rows"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "name it .jsonl"),
        ("a.json", b'[{"a": 1}, 2]', "item 2: a JSON object is expected, not int"),
        ("a.xlsx", b"x", 'ending ".xlsx", which is no known format'),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_file(write(tmp_path, name, content))
    assert name in str(error.value)
    assert error.value.fix


def test_a_file_without_line_ends_and_one_that_is_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LONGEST", 1000)
    for name, content in (
        ("a.txt", "a" * 1001),
        ("a.jsonl", '{"a": "' + "a" * 1000),
        ("a.csv", 'text\n"' + "a\n" * 600),
    ):
        with pytest.raises(InputError, match=r"more than 1,000 characters|larger than field limit \(1000\)") as error:
            read_file(write(tmp_path, name, content))
        assert f"{name}, line " in str(error.value)
    monkeypatch.setattr(text_files, "LARGEST", 100)
    with pytest.raises(InputError, match=r"a\.csv has 101 bytes; at most 100 are read") as error:
        read_file(write(tmp_path, "a.csv", "text\n" + "a" * 96))
    assert "head -n" in str(error.value.fix)


def test_a_small_parquet_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(parquet_files, "FREE_VALUES", 100_000)
    for number, column in enumerate(([0] * 1_000_000, [[0] * 1_000_000])):
        parquet.write_table(pyarrow.table({"a": column}), tmp_path / f"{number}.parquet")
        assert (tmp_path / f"{number}.parquet").stat().st_size < 10_000
        with pytest.raises(InputError, match="unpacks to 1,000,000 values"):
            read_file(tmp_path / f"{number}.parquet")


def test_a_parquet_file_with_any_byte_changed_is_read_or_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": "a", "labels": [1, 2]}, {"text": "bc", "labels": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", compression="none")
    sound = (tmp_path / "a.parquet").read_bytes()
    draw, read = random.Random(0), []
    for place in [*range(0, len(sound), 7), *range(len(sound) - 12, len(sound))]:
        changed = bytearray(sound)
        changed[place] ^= 1 << draw.randrange(8)
        try:
            read_file(write(tmp_path, "a.parquet", bytes(changed)))
            read.append(True)
        except InputError:
            read.append(False)
    assert set(read) == {True, False}


def test_long_fields_are_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    assert len(read_file(write(tmp_path, "a.csv", "text\n" + "a" * 200_000)).rows[0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


@given(ROWS)
@SAME_FOLDER
def test_what_csv_writes_is_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("text", "label"), *rows])
    table = read_file(write(tmp_path, "a.csv", written.getvalue()))
    assert [(row["text"], row["label"]) for row in table.rows] == rows


@given(st.lists(st.dictionaries(FIELDS, st.none() | st.booleans() | st.integers() | FIELDS), min_size=1, max_size=5))
@SAME_FOLDER
def test_what_json_writes_is_read_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert read_file(write(tmp_path, "a.jsonl", lines)).rows == rows
    assert read_file(write(tmp_path, "a.json", json.dumps(rows))).rows == rows


@given(content=st.binary(min_size=1, max_size=200), ending=st.sampled_from(["csv", "tsv", "jsonl", "json", "txt"]))
@SAME_FOLDER
def test_any_bytes_are_rows_or_a_clear_error(tmp_path: Path, content: bytes, ending: str) -> None:
    try:
        assert read_file(write(tmp_path, f"a.{ending}", content)).rows
    except InputError as error:
        assert f"a.{ending}" in str(error)


def test_the_table_of_formats_is_what_the_help_says() -> None:
    assert list(FORMATS) == ["csv", "tsv", "jsonl", "json", "parquet", "txt", "conll"]
