"""A config file, `key=value` overrides and flags -> one checked Config, or every problem at once."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunelift.config import yaml_text
from tunelift.config.problems import key_at, sentences
from tunelift.config.schema import Config
from tunelift.config.settings import Setting, assemble, flatten, parse_assignment, translate
from tunelift.core import stopping
from tunelift.core.errors import InputError
from tunelift.run_files.layout import RunPaths

Check = Callable[[Config], list[str]]
"""Looks at a whole config and returns what is wrong with it, one sentence each."""


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    checks: Sequence[Check] = (),
    *,
    of_run: bool = False,
) -> Config:
    """Return the config of a YAML file with overrides and flags on top (flags win).

    `overrides` are `train.learning_rate=1e-4`; `flags` map dotted names to values, where text is read as in an
    override. `of_run` says that the file is a run's, whose code is not run and whose addresses are not called. Raises
    InputError with every problem: unknown keys, wrong values, code and addresses that another folder's config names,
    and what other rooms' `checks` say.
    """
    problems: list[str] = []
    layers = []
    if path is not None:
        tree, lines = yaml_text.read_mapping(Path(path))
        layers.append(flatten(tree, {key: f"{path}, line {line}" for key, line in lines.items()}))
        problems += [] if of_run else [*_strange_code(Path(path), layers[0]), *_strange_address(Path(path), layers[0])]
    layers.append(_override_settings(overrides, problems))
    given = [(tuple(name.split(".")), value) for name, value in (flags or {}).items()]
    texts = [(key, parse_assignment(key, value) if isinstance(value, str) else value) for key, value in given]
    layers.append([Setting(key, value) for key, value in texts])
    return build([setting for layer in layers for setting in translate(layer, problems)], problems, checks)


def build(settings: Sequence[Setting], problems: Sequence[str] = (), checks: Sequence[Check] = ()) -> Config:
    """Check settings (later ones win) and return the Config; raise InputError with `problems` and all that is found."""
    broken = [setting.name for setting in settings if not _is_text(setting)]
    problems = [*problems, *(f"{name!a}: its name or value is no valid text (UTF-8)." for name in broken)]
    tree, origins = assemble(setting for setting in settings if setting.name not in broken)
    config = _validated(tree, origins, problems)
    if config is not None:
        problems += [] if config.output is None else _wrong_output(config.output)
        problems += [problem for check in checks for problem in check(config)]
    if problems or config is None:
        fix = "Correct the config or the command." if len(problems) > 1 else None
        raise InputError(*problems, fix=fix)
    return config


def dump(config: Config) -> str:
    """Return the whole config as YAML that loads back equal; objects given in Python are described in words."""
    tree = config.model_dump()
    # A source's own validation split goes before the default fraction, so a fraction nobody asked for is not written.
    if "validation" not in config.data.model_fields_set:
        del tree["data"]["validation"]
    return yaml_text.dump(_writable(tree))


def default_output(config: Config) -> Path:
    """Return the run folder where none was named: runs/MODEL-DATA."""
    source = config.data.train if config.data.train is not None else config.data.test
    names = [config.model.name or "model", source if isinstance(source, str) else "data"]
    return Path("runs") / "-".join(_short_name(name) for name in names)


def _wrong_output(output: str) -> list[str]:
    """Say where a folder is no folder but an address: it would be made in the working folder, by that name."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", output):  # a single letter is a drive
        return []
    return [
        f"output: {output} is an address, and output is a folder of this machine. Sweeps and leaderboards keep what "
        "they make at an address too with --storage."
    ]


def _strange_code(path: Path, settings: Sequence[Setting]) -> list[str]:
    """Say where a config names code to run and is not one of the working folder: it may be anybody's."""
    named = [s for s in settings if s.name.rpartition(".")[2] == "metrics" and ".py:" in str(s.value)]
    where = _strange(path)
    if not named or not where:
        return []
    return [
        f"{path} names code as a metric, and {where}: it may be somebody else's. Give the metric with the command "
        "(--metrics FILE.py:FUNCTION), or copy the config here."
    ]


def _strange_address(path: Path, settings: Sequence[Setting]) -> list[str]:
    """Say where a config names an address to which rows would be sent and is not one of the working folder."""
    names = ("larger_model", "larger_model.address", "larger_model.key_from")
    where = _strange(path)
    if not where or not any(s.value for s in settings if s.name in names):
        return []
    return [
        f"{path} names an address that your rows would be sent to, and {where}: it may be somebody else's. Give the "
        "address with the command (--address https://HOST/v1), or copy the config here."
    ]


def _strange(path: Path) -> str:
    """Say why a config may be anybody's; nothing of one that lies in the working folder and is no run's.

    Nor of one that a sweep or a leaderboard wrote for this process, out of a config that was asked about there.
    """
    if stopping.JOB in os.environ:
        return ""
    if RunPaths(path.parent).manifest.exists():
        return "is the config of a run"
    return "" if path.resolve().parent == Path.cwd().resolve() else "lies in another folder"


def _is_text(setting: Setting) -> bool:
    """Tell whether no half of a character is there, which a shell's bytes become where they are no UTF-8."""
    text = setting.name + (setting.value if isinstance(setting.value, str) else "")
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _override_settings(overrides: Sequence[str], problems: list[str]) -> list[Setting]:
    if sum(map(len, overrides)) > yaml_text.LARGEST:
        problems.append(f"The overrides have more than {yaml_text.LARGEST:,} characters; put them into a file.")
        return []
    settings: dict[str, Setting] = {}
    for text in overrides:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            problems.append(f'"{text}" is not an override. Write key=value, such as train.learning_rate=1e-4.')
            continue
        key = tuple(name.strip().split("."))
        settings[name.strip()] = Setting(key, parse_assignment(key, value))
    return list(settings.values())


def _validated(tree: dict[str, Any], origins: Mapping[str, str], problems: list[str]) -> Config | None:
    """Return the Config; add wrong keys to `problems` and return what the other keys give, for the checks."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems += sentences(error, origins)
        rest = _without(tree, [key_at(entry["loc"]) for entry in error.errors()])
    try:
        return Config.model_validate(rest)
    except ValidationError:
        return None


def _without(tree: dict[str, Any], wrong: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    tree = {key: copy.copy(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for *section, key in wrong:
        (tree[section[0]] if section else tree).pop(key, None)
    return tree


def _writable(value: Any) -> Any:
    if isinstance(value, Mapping):
        plain = (str, int, float)
        return {key if isinstance(key, plain) else str(key): _writable(entry) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(entry) for entry in value)
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], Mapping):
            return f"<{len(value)} rows, given in Python>"
        return [_writable(entry) for entry in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return f"<{getattr(value, '__name__', type(value).__name__)}, given in Python>"


def _short_name(name: str) -> str:
    """Return the last part of a Hub id or a path without its suffix, in characters that suit a folder's name."""
    last = name.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]
    stem = re.sub(r"\.(csv|tsv|jsonl|json|parquet|txt|gguf)$", "", last)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "data"
