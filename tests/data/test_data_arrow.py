"""Values that have been in an Arrow table: the same rows as from the JSON they were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunelift.core.errors import InputError
from tunelift.data.sources import read_rows

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def call(**arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}}


def tool(**properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "weather", "parameters": {"properties": properties}}}


ROWS = [
    {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call(x=1)]}],
        "tools": [tool(x={"type": "integer"})],
        "answers": {"text": ["a", None]},
    },
    {
        "messages": [
            {"role": "user", "content": "b"},
            {"role": "assistant", "tool_calls": [call(y="p", z=[{"w": 2}])]},
        ],
        "tools": [tool(y={"type": "string"}), tool()],
        "answers": {"text": []},
    },
]


def without_empty(value: Any) -> Any:
    """Leave out empty objects, which Arrow cannot tell from objects with keys of other rows."""
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items() if item != {}}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def test_objects_of_a_parquet_file_have_no_keys_of_other_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert without_empty(read_rows(tmp_path / "a.parquet").rows) == without_empty(ROWS)


def test_objects_of_a_data_set_have_no_keys_of_other_rows() -> None:
    datasets = pytest.importorskip("datasets")
    assert without_empty(read_rows(datasets.Dataset.from_list(ROWS)).rows) == without_empty(ROWS)


def test_json_within_a_parquet_file_is_read_as_it_is(tmp_path: Path) -> None:
    """As `datasets` 5 keeps objects of different shapes; here a null is somebody's own."""
    said = {"role": "assistant", "content": "", "tool_calls": [call(x=None, y=1.50)]}
    values = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array([json.dumps(said), None]))
    inner = pyarrow.StructArray.from_arrays([pyarrow.ListArray.from_arrays([0, 2, 2], values)], ["list"])
    parquet.write_table(pyarrow.table({"messages": inner}), tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet").rows
    assert rows == [{"messages": {"list": [said, None]}}, {"messages": {"list": []}}]


def test_json_that_is_none_is_refused_with_its_row(tmp_path: Path) -> None:
    storage = pyarrow.array(['{"a": 1}', "{"], pyarrow.string())
    table = pyarrow.table({"messages": pyarrow.ExtensionArray.from_storage(pyarrow.json_(), storage)})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r'a\.parquet, row 2, column "messages": not valid JSON'):
        read_rows(tmp_path / "a.parquet")


def test_json_of_data_sets_gives_what_the_file_gives(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no type for JSON")
    lines = "\n".join(json.dumps({key: row[key] for key in ("messages", "tools")}) for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    read = datasets.load_dataset("json", data_files=str(tmp_path / "a.jsonl"), split="train", cache_dir=str(tmp_path))
    read.to_parquet(str(tmp_path / "a.parquet"))
    expected = without_empty(read_rows(tmp_path / "a.jsonl").rows)
    assert without_empty(read_rows(tmp_path / "a.parquet").rows) == expected
    assert without_empty(read_rows(read).rows) == expected
