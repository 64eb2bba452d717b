"""YAML in and out: read as YAML 1.2 reads it, within limits, every key with its line, keys given twice refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tunelift.core import text_files
from tunelift.core.errors import InputError

LARGEST = 50_000
"""Bytes of a config file; long ones have 5,000. PyYAML reads this many in about a second."""

MOST_NODES, DEEPEST = 10_000, 64
"""Values of a config with its aliases written out, and lists and mappings inside each other."""

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
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # refused later: no setting has such a name
                continue
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise _refused(key, f'the key "{key.value:.80}" is there twice, first in line {seen[key.value]}')
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _refused(node, f"{node.value!r:.60} is no {node.tag.rpartition(':')[2]}") from error

    def fetch_flow_collection_start(self, *arguments: Any) -> None:
        """Refuse brackets nested deep before PyYAML looks ahead over them, in time that grows with their square."""
        if self.flow_level > DEEPEST:
            raise RecursionError
        super().fetch_flow_collection_start(*arguments)

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
    """Parse YAML; raise yaml.YAMLError, for what is beyond a limit too."""
    return _read(text)[0]


def dump(value: Any) -> str:
    """Write mappings, lists, text and numbers as YAML in their own order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Read a file that holds one mapping; return it and the line of every key of its first two levels.

    Raises InputError for a file that cannot be read, is empty, is no YAML, holds something else, or has a key twice.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} has more than {LARGEST:,} bytes, the most of a config.", fix="Is it the config?")
        value, root = _read(text_files.text_of(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", fix="Give a YAML file in UTF-8.") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        what = problem if problem.startswith("the key") else f"not valid YAML ({problem})"
        raise InputError(f"{where}: {what}.", fix="Correct the YAML there.") from error
    if value is None:
        raise InputError(f"{path} is empty.", fix="It needs at least model: and data:.")
    if not isinstance(value, dict):
        raise InputError(
            f"{path} holds {kind(value)}, not a mapping.", fix="Write sections such as model:, data: and train:."
        )
    return {str(key): entry for key, entry in value.items()}, _lines(root)


def kind(value: Any) -> str:
    """Name a value's type in the words of a YAML file."""
    names = {bool: "true or false", str: "text", list: "a list", tuple: "a list", dict: "a mapping"}
    names |= {type(None): "null", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__} object")


def _read(text: str) -> tuple[Any, yaml.Node | None]:
    """Return what the text says and the node it was made from; aliases are counted before they are followed."""
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"more than {LARGEST:,} characters")
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None
        _written_out(root, {})
        return loader.construct_document(root), root
    except RecursionError as error:
        raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep") from error
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many nodes there are with every alias written out, and how many levels; refuse too many."""
    if isinstance(node, yaml.ScalarNode):
        if "\0" in node.value or any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _refused(node, f"{node.value!r:.60} holds a NUL character or half of a character")
        return 1, 0
    if id(node) not in known:
        known[id(node)] = MOST_NODES, 0  # what an alias within its own anchor comes to
        inner = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        found = [_written_out(each, known) for each in inner]
        nodes, levels = 1 + sum(count for count, _ in found), 1 + max((depth for _, depth in found), default=0)
        if nodes > MOST_NODES or levels > DEEPEST:
            raise _refused(node, f"more than {MOST_NODES:,} values with aliases written out, or {DEEPEST} levels")
        known[id(node)] = nodes, levels
    return known[id(node)]


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _lines(root: yaml.Node | None) -> dict[tuple[str, ...], int]:
    lines: dict[tuple[str, ...], int] = {}
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        lines[(str(key.value),)] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value, yaml.MappingNode) else []:
            lines[(str(key.value), str(inner.value))] = inner.start_mark.line + 1
    return lines
