"""Metrics of answers that are to have a form: JSON, JSON that fits a schema, a regular expression."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError
from tunelift.metrics.registry import METRICS, WITH_ARGUMENT, Answer, Metric

_NOT_JSON = object()


def json_valid(answer: Answer) -> float:
    """1 if the whole answer is one JSON value (RFC 8259), blanks around it aside."""
    return float(_value(answer.prediction) is not _NOT_JSON)


def json_schema(path: str) -> Metric:
    """Return the metric that is 1 for an answer that is JSON and fits the schema in a file.

    The draft is the one that `$schema` names, otherwise 2020-12. Raises InputError for a file that is no schema or of
    a draft that is not known, and for one that refers to others, which nobody would look at here, or to what it lacks.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"json_schema: {path} does not exist.", fix="Write json_schema:FILE, such as json_schema:order.json."
        )
    schema = text_files.json_value(text_files.text_of(file), str(file))
    if away := [ref for ref in _references(schema) if not ref.startswith("#")]:
        raise InputError(f"json_schema: {path} refers to {away[0]!r}.", fix='Put it into the file, under "$defs".')

    validator: Any = _validator(schema, path) if find_spec("jsonschema") else None  # without it the metric is refused

    def fits(answer: Answer) -> float:
        value = _value(answer.prediction)
        try:
            return float(value is not _NOT_JSON and validator.is_valid(value))
        except RecursionError:  # an answer so deep that nobody wants it
            return 0.0

    text = json.dumps(schema, sort_keys=True)
    defined_by = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Metric(
        "json_schema", fits, "text", kind="binary", bounds=(0, 1), package="jsonschema", defined_by=defined_by
    )


def regex_match(pattern: str) -> Metric:
    """Return the metric that is 1 for an answer that a regular expression of Python's matches whole, its ends' blanks
    aside; raise InputError for one that cannot be read."""
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise InputError(
            f"regex_match: {pattern!r} is no regular expression: {error}.", fix=r"Such as regex_match:\d{4}-\d{2}."
        ) from error
    return Metric(
        "regex_match",
        lambda answer: float(compiled.fullmatch(answer.prediction.strip()) is not None),
        "text",
        kind="binary",
        bounds=(0, 1),
        defined_by=pattern,
    )


def _value(text: str) -> Any:
    """Return what JSON says; Python's reader would take NaN and Infinity, which are none."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _validator(schema: Any, path: str) -> Any:
    from jsonschema import validators
    from jsonschema.exceptions import SchemaError
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    named = schema.get("$schema") if isinstance(schema, Mapping) else None
    kind = validators.validator_for(schema, default=None if named else validators.Draft202012Validator)
    if kind is None:
        raise InputError(f"json_schema: {path} names a draft that is not known: {named!r}.", fix="Leave $schema out.")
    try:
        kind.check_schema(schema)
        resolver = Registry().resolver_with_root(Resource.from_contents(schema, DRAFT202012))
        for ref in _references(schema):
            resolver.lookup(ref)
        kind(schema).is_valid(None)
    except SchemaError as error:
        raise InputError(f"json_schema: {path} is no schema: {error.message}.") from error
    except Unresolvable as error:
        raise InputError(f"json_schema: {path} refers to {ref!r}, which is not in it.") from error
    except RecursionError as error:
        raise InputError(f"json_schema: {path} refers to itself without end.") from error
    return kind(schema)


def _references(value: Any) -> Iterator[str]:
    """Yield what a schema refers to, at any depth."""
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(part, str):
            yield part
        yield from _references(part)


METRICS.add("json_valid", Metric("json_valid", json_valid, "text", kind="binary", bounds=(0, 1)))
WITH_ARGUMENT.add("json_schema", json_schema)
WITH_ARGUMENT.add("regex_match", regex_match)
