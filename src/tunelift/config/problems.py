"""What the schema found wrong, in sentences: which key, which value, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tunelift.config.schema import Config, choices
from tunelift.config.settings import SECTIONS, members, sections_with
from tunelift.config.yaml_text import kind
from tunelift.core.errors import did_you_mean, listed


def sentences(error: ValidationError, origins: Mapping[str, str]) -> list[str]:
    """Return one sentence per key that is wrong; `origins` says where each dotted name was given."""
    found: dict[tuple[str, ...], str] = {}
    for entry in error.errors(include_url=False, include_context=True):
        path = tuple(str(part) for part in entry["loc"])
        found.setdefault(path[:2], f"{_place(path, origins)}: {_sentence(path, entry)}")
    return list(found.values())


def unknown_key(path: tuple[str, ...]) -> str:
    """Say that a key does not exist, with the section where it belongs or the nearest name."""
    elsewhere = [f"{section}.{path[-1]}" for section in sections_with(path[-1]) if path[:-1] != (section,)]
    if elsewhere:
        return f"there is no such key. It belongs to a section: {' or '.join(elsewhere)}."
    allowed = list(fields_of(path[:-1]))
    hint = did_you_mean(path[-1], allowed)
    return f"there is no such key.{hint}" if hint else f"there is no such key. Allowed: {listed(allowed, limit=30)}."


def key_at(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the key that a path leads to; what lies deeper is a part of its value."""
    return path[:2] if path[0] in SECTIONS else path[:1]


def fields_of(section: tuple[str, ...]) -> dict[str, FieldInfo]:
    """Return the keys of a section, or of the top level for an empty path."""
    model: Any = SECTIONS[section[0]] if section else Config
    return dict(model.model_fields)


def allowed(field: FieldInfo) -> str:
    """Say in words what a key takes: "a number above 0", "auto, float32, bfloat16 or float16"."""
    parts = members(field.annotation)
    words = [_words(part, field) for part in parts if part is not type(None)]
    return " or ".join(dict.fromkeys(words)) + (", or null for none" if type(None) in parts else "")


def _place(path: tuple[str, ...], origins: Mapping[str, str]) -> str:
    name = ".".join(key_at(path))
    origin = origins.get(name) or origins.get(path[0])
    return f"{name} ({origin})" if origin else name


def _sentence(path: tuple[str, ...], entry: Mapping[str, Any]) -> str:
    if entry["type"] == "extra_forbidden":
        return unknown_key(path)
    value = entry["input"]
    if len(path) == 1 and path[0] in SECTIONS:
        some = listed(list(fields_of(path))[:3])
        return f"{_shown(value)} is not a section; write its keys below it, such as {some}."
    key = key_at(path)
    field = fields_of(key[:-1])[key[-1]]
    return f"{_shown(value)} is not allowed (got {kind(value)}). Allowed: {allowed(field)}."


def _shown(value: Any) -> str:
    shown = json.dumps(value) if isinstance(value, bool | None) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _words(part: Any, field: FieldInfo) -> str:
    if named := choices(field.annotation):
        return f"{', '.join(named[:-1])} or {named[-1]}"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    if part in (int, float):
        return names[part] + _range(field)
    if get_origin(part) is list:
        return "a list of names" if get_args(part) == (str,) else "a list"
    return names.get(part, "a file, or a fraction above 0 and below 1")


def _range(field: FieldInfo) -> str:
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
    limits = [(word, getattr(limit, key, None)) for limit in field.metadata for key, word in words.items()]
    said = [f"{word} {value}" for word, value in limits if value is not None]
    return f" {' and '.join(said)}" if said else ""
