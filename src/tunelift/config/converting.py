"""The config of another trainer -> ours, with every key accounted for: taken, needless here, without counterpart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.config import yaml_text
from tunelift.config.schema import Config
from tunelift.core.errors import InputError, listed


@dataclass(slots=True)
class Conversion:
    """What a foreign config says in our words, by dotted names, and what it says that ours cannot.

    `different` are keys that mean something else here or nothing; `needless` what is decided without a key here;
    `unknown` what no version of that trainer seen here has.
    """

    source: Mapping[str, Any]
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    needless: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any) -> None:
        """Set a key of ours."""
        self.settings[name] = value

    def say(self, sentence: str) -> None:
        """Note what becomes different."""
        self.different.append(sentence)

    def of(self, key: str, default: Any = None) -> Any:
        """Return what the foreign config says under a key; the default where that is null or missing."""
        value = self.source.get(key)
        return default if value is None else value


Rule = str | Callable[[Conversion, Any], None]
"""Our dotted name for a foreign key, or a function that puts or says what its value means."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A trainer's config: keys by which it is known, a rule for each key, and keys that need no counterpart.

    `batch` are its keys for rows computed at once and for the micro-batches of one step, and their defaults; `defaults`
    what it does where a key is missing, in our names.
    """

    name: str
    marks: tuple[str, ...]
    rules: Mapping[str, Rule]
    needless: frozenset[str]
    batch: tuple[tuple[str, int], tuple[str, int]]
    defaults: Mapping[str, Any]


def convert(path: Path, dialects: Mapping[str, Dialect], named: str | None = None) -> tuple[Dialect, Conversion]:
    """Return the dialect of the file and what it says in our words.

    Raises InputError for a file that is no mapping, that no dialect knows, or whose training is of a kind that cannot
    be done here.
    """
    tree, _ = yaml_text.read_mapping(path)
    dialect = dialects[named] if named else _recognised(path, tree, dialects)
    found = Conversion(tree, path.parent)
    (rows, rows_default), (steps, steps_default) = dialect.batch
    for key, value in tree.items():
        rule = dialect.rules.get(key)
        if value is None or value == "" or key in (rows, steps):
            continue
        if rule is None:
            (found.needless if key in dialect.needless else found.unknown).append(key)
        elif isinstance(rule, str):
            found.put(rule, value)
        else:
            rule(found, value)
    found.put("train.batch_size", _number(found, rows, rows_default) * _number(found, steps, steps_default))
    found.settings = {**dialect.defaults, **found.settings}
    _without_what_is_moot(found)
    return dialect, found


def as_yaml(converted: Conversion, about: str) -> str:
    """Return the config as YAML, with what it could not say as comments at its head."""
    tree: dict[str, Any] = {name: {} for name in Config.model_fields}
    for name, value in converted.settings.items():
        section, _, key = name.partition(".")
        if key:
            tree[section][key] = value
        else:
            tree[section] = value
    tree = {section: value for section, value in tree.items() if value != {}}
    said = [about, *converted.different]
    if converted.unknown:
        said.append(f"Not known, and left out: {', '.join(converted.unknown)}.")
    return "".join(f"# {' '.join(line.split())}\n" for line in said) + yaml_text.dump(tree)


def _recognised(path: Path, tree: Mapping[str, Any], dialects: Mapping[str, Dialect]) -> Dialect:
    for dialect in dialects.values():
        if any(mark in tree for mark in dialect.marks):
            return dialect
    marks = "; ".join(f"{dialect.name}: {', '.join(dialect.marks)}" for dialect in dialects.values())
    raise InputError(
        f"{path} is no config of {listed(dialect.name for dialect in dialects.values())}: no key tells one.",
        fix=f"Name it with --of. Looked for: {marks}.",
    )


def _without_what_is_moot(found: Conversion) -> None:
    """Leave out epochs where steps are given, and the keys of LoRA where all weights are trained."""
    settings = found.settings
    if "train.steps" in settings:
        settings.pop("train.epochs", None)
    if settings["adapter.method"] != "lora":
        lost = [name for name in settings if name.startswith("adapter.") and name != "adapter.method"]
        found.settings = {name: value for name, value in settings.items() if name not in lost}
        if lost:
            found.say(f"Left out, as no LoRA is trained: {', '.join(lost)}.")


def _number(found: Conversion, key: str, default: int) -> int:
    value = found.of(key, default)
    if value == "auto":
        found.say(f"{key}: auto is taken as {default}; micro-batches are cut to fit train.micro_batch_tokens.")
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{key} is {value!r}; it is a whole number above 0.")
    return value
