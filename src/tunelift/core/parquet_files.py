"""Parquet files of anybody's making, within limits: a small file may say that it holds billions of values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelift.core import text_files
from tunelift.core.arrow_values import columns_as_before, row_as_before
from tunelift.core.errors import InputError

FREE_VALUES, VALUES_PER_BYTE = 2**24, 50
"""Values that a parquet file may always unpack to, and how many for each of its bytes beyond that."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a parquet file; see `rows_and_metadata`."""
    return rows_and_metadata(path)[0]


def rows_and_metadata(path: Path) -> tuple[list[dict[str, Any]], Mapping[bytes, bytes]]:
    """Return the rows of a parquet file, and what its writer noted beside the schema.

    Objects have the keys that they have a value for, and JSON is read. Raises InputError where pyarrow is not
    installed, and for a file that is damaged or unpacks to too much.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: parquet needs pyarrow.", fix="pip install 'tunelift[data]'") from error
    text_files.check_size(path, sys.maxsize)
    rows: list[dict[str, Any]] = []
    try:
        with parquet.ParquetFile(path) as file:
            most = max(FREE_VALUES, VALUES_PER_BYTE * path.stat().st_size)
            groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
            columns_said = (group.column(index) for group in groups for index in range(group.num_columns))
            _check_values(path, sum(column.num_values for column in columns_said), most)  # those within lists included
            for batch in file.iter_batches(batch_size=1024):
                rows += batch.to_pylist()
                _check_values(path, len(rows) * batch.num_columns, most)
            schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}.") from error
    columns = columns_as_before(schema)
    if columns:
        rows = [row_as_before(row, columns, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    return rows, schema.metadata or {}


def _check_values(path: Path, values: int, most: int) -> None:
    if values > most:
        raise InputError(
            f"{path} unpacks to {values:,} values, more than {VALUES_PER_BYTE} for each of its bytes.",
            fix="Real data is not repeated so often; write the rows that are needed to jsonl.",
        )
