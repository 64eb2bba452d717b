"""Keys by their short names, as keyword arguments of the Python functions and as flags of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunelift.config.load import Check, build
from tunelift.config.schema import Config
from tunelift.config.settings import ALIASES, SECTIONS, SHORT, Setting, flatten, sections_with, translate
from tunelift.core.errors import did_you_mean

Stage = Literal["train", "evaluate"]


def places(key: str, stage: Stage = "train") -> list[str]:
    """Return the dotted names that a short name stands for; none where there is no such key.

    `data` is the rows that the stage works on, `batch_size` the stage's own, and `seed` both seeds.
    """
    if key == "data":
        return ["data.test" if stage == "evaluate" else "data.train"]
    if key in SHORT:
        return [f"{key}.{SHORT[key]}"]
    if key in Config.model_fields:
        return [key]
    sections = sections_with(key)
    if len(sections) > 1 and stage in sections:
        sections = sections if key == "seed" else [stage]
    return [f"{section}.{key}" for section in sections] or ([ALIASES[key]] if key in ALIASES else [])


def from_keywords(prefer: Stage = "train", *, checks: Sequence[Check] = (), **keywords: Any) -> Config:
    """Return the Config of `metrics=[...]`, `learning_rate=1e-4`, `data=...`, `adapter={"r": 8}`.

    `data` is a path, rows, a Dataset, or a mapping like the config's data section. `prefer` says which stage's keys
    are meant where two sections have a key. Raises InputError with every problem, unknown keywords among them.
    """
    problems: list[str] = []
    whole, single = [], []
    for key, value in keywords.items():
        if key in SECTIONS and isinstance(value, Mapping):
            whole += flatten({key: value})
        else:
            found = places(key, prefer)
            single += [Setting(tuple(name.split(".")), value) for name in found]
            problems += [] if found else [f"{key}: there is no such keyword.{did_you_mean(key, short_names())}"]
    return build(translate(whole, problems) + single, problems, checks)


def short_names() -> list[str]:
    """Return every short name: top-level keys and the keys of all sections."""
    names = [name for section in SECTIONS.values() for name in section.model_fields]
    return list(dict.fromkeys([*Config.model_fields, *names]))
