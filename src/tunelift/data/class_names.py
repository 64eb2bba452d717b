"""Class numbers turned into the names that a data set's features give them, in lists and structs too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tunelift.core.errors import InputError

Naming = Callable[[Any], Any]


def with_class_names(rows: Iterable[Mapping[str, Any]], features: Any, source: str) -> Iterator[dict[str, Any]]:
    """Yield the rows with names for class numbers, None for -1 (no class).

    `features` are those of `datasets`, or the same as JSON, as a parquet file holds them. Raises InputError for a
    number that has no name; `source` is named in it.
    """
    namings = _of_struct(features) if isinstance(features, Mapping) else {}
    for number, row in enumerate(rows, start=1):
        try:
            yield _in_struct(row, namings)
        except IndexError as error:
            raise InputError(
                f"{source}, row {number}: the class {error.args[0]} has no name in the features.",
                fix="Correct the number or the features, or write the class as text.",
            ) from error


def _of_struct(features: Mapping[str, Any]) -> dict[str, Naming]:
    """Return the naming of each column that holds classes."""
    found = {column: _naming(kind) for column, kind in features.items()}
    return {column: naming for column, naming in found.items() if naming is not None}


def _naming(kind: Any) -> Naming | None:
    if isinstance(kind, Mapping) and not isinstance(kind.get("_type"), str):
        namings = _of_struct(kind)
        return (lambda value: _in_struct(value, namings)) if namings else None
    names = _part(kind, "names")
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return lambda value: _name(value, names)
    part = kind[0] if isinstance(kind, list) and len(kind) == 1 else _part(kind, "feature")
    inner = None if part is None else _naming(part)
    return None if inner is None else lambda value: _each(value, inner)


def _part(kind: Any, name: str) -> Any:
    return kind.get(name) if isinstance(kind, Mapping) else getattr(kind, name, None)


def _name(value: Any, names: list[str] | tuple[str, ...]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        # An older `datasets` wrote a list of structs as a struct of lists.
        return [_name(item, names) for item in value] if isinstance(value, list) else value
    if value >= len(names):
        raise IndexError(value)
    return names[value] if value >= 0 else None


def _each(value: Any, naming: Naming) -> Any:
    return [naming(item) for item in value] if isinstance(value, list) else naming(value)


def _in_struct(value: Any, namings: Mapping[str, Naming]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {**value, **{column: name(value[column]) for column, name in namings.items() if column in value}}
