"""Values that have been in an Arrow table, as they were before.

Arrow gives every object of a column the keys of all its objects, with no value where there was no key: of two calls
with one argument each it makes two calls with both. And `datasets` keeps objects of different shapes as JSON
(`arrow.json`), which Arrow hands out as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tunelift.core import text_files

Plain = Callable[[Any, str], Any]
"""(value, where it stands, for messages) to the value as it was."""


def as_before(kind: Any, *, has_json: bool = True) -> Plain | None:
    """Return what makes values of an Arrow type as they were; None where they are that already.

    Keys without a value are left out of objects. `has_json=False` says that JSON was read before. What is made raises
    InputError for text that should be JSON and is not.
    """
    from pyarrow import types

    if getattr(kind, "extension_name", None) == "arrow.json":
        return _from_json if has_json else None
    if types.is_struct(kind):
        return _of_struct({field.name: as_before(field.type, has_json=has_json) for field in kind})
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = as_before(kind.value_type, has_json=has_json)
        if inner is None:
            return None
        return lambda value, where: [inner(item, where) for item in value] if isinstance(value, list) else value
    return None


def columns_as_before(schema: Any, *, has_json: bool = True) -> dict[str, Plain]:
    """Return `as_before` of each column of an Arrow schema that needs it."""
    found = {field.name: as_before(field.type, has_json=has_json) for field in schema}
    return {name: plain for name, plain in found.items() if plain is not None}


def row_as_before(row: Mapping[str, Any], columns: Mapping[str, Plain], where: str) -> dict[str, Any]:
    """Return a row with the values of these columns as they were."""
    changed = {name: plain(row[name], f'{where}, column "{name}"') for name, plain in columns.items() if name in row}
    return {**row, **changed}


def _from_json(value: Any, where: str) -> Any:
    return text_files.json_value(value, where) if isinstance(value, str) else value


def _of_struct(fields: Mapping[str, Plain | None]) -> Plain:
    def plain(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            return value
        given = ((key, item, fields.get(key)) for key, item in value.items() if item is not None)
        return {key: item if inner is None else inner(item, where) for key, item, inner in given}

    return plain
