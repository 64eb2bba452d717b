"""YAML in and out: read as YAML 1.2 reads it, every key with its line, keys given twice refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tunelift.core.errors import InputError

# YAML 1.1, which PyYAML follows, reads 1e-4 as text, yes and no as truth values and 12:30 as a number; 1.2 does not.
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "tag:yaml.org,2002:merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_keys_given_twice(node)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 16 if "x" in node.value else 10)


class _Dumper(yaml.SafeDumper):
    """The safe dumper; text that either version of YAML would read as something else is put in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Write text with line breaks on one line, as "Message: {text}\\nIntent:"."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if "\n" in data else None)


_Dumper.add_representer(str, _Dumper.represent_str)
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse(text: str) -> Any:
    """Parse YAML; raise yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def dump(value: Any) -> str:
    """Write mappings, lists, text and numbers as YAML in their own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Read a file that holds one mapping; return it and the line of every key of its first two levels.

    Raises InputError for a file that cannot be read, is empty, is no YAML, holds something else, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}.", fix="Give a YAML file in UTF-8.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_line_of(error)}: {_what(error)}.", fix="Correct the YAML there.") from error
    if value is None:
        raise InputError(f"{path} is empty.", fix="It needs at least model: and data:.")
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds {kind(value)}, not a mapping.", fix="Write sections such as model:, data: and train:."
        )
    return {str(key): entry for key, entry in value.items()}, _lines(text)


def kind(value: Any) -> str:
    """Name a value's type in the words of a YAML file."""
    names = {bool: "true or false", str: "text", list: "a list", tuple: "a list", dict: "a mapping"}
    if value is None:
        return "null"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "a number"
    return names.get(type(value), f"a {type(value).__name__} object")


def _refuse_keys_given_twice(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
            raise yaml.constructor.ConstructorError(
                None, None, f'the key "{key.value}" is there twice, first in line {seen[key.value]}', key.start_mark
            )
        if isinstance(key.value, str):
            seen[key.value] = line


def _lines(text: str) -> dict[tuple[str, ...], int]:
    root = yaml.compose(text, Loader=_Loader)
    lines: dict[tuple[str, ...], int] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        lines[(str(key.value),)] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else []:
            lines[(str(key.value), str(inner.value))] = inner.start_mark.line + 1
    return lines


def _line_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _what(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or error)
    return problem if problem.startswith("the key") else f"not valid YAML ({problem})"


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
