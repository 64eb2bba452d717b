"""One setting and where it was given; names other programs use; settings put together to the tree the schema checks."""

from __future__ import annotations

import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin

from tunelift.config import yaml_text
from tunelift.config.schema import Config
from tunelift.core.progress import note

SECTIONS: dict[str, Any] = {
    name: field.annotation for name, field in Config.model_fields.items() if hasattr(field.annotation, "model_fields")
}
"""Section name: its class."""

SHORT = {"model": "name", "data": "train", "adapter": "method", "preferences": "loss", "larger_model": "address"}
"""The key that a section's name alone stands for: `model: gpt2`."""

ALIASES = {
    "model_name_or_path": "model.name",
    "base_model": "model.name",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules",
    "target_modules": "adapter.target_modules",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "max_steps": "train.steps",
    "per_device_train_batch_size": "train.batch_size",
    "lr_scheduler_type": "train.schedule",
    "lr_scheduler": "train.schedule",
    "warmup_ratio": "train.warmup",
    "eval_steps": "train.evaluate_every",
    "early_stopping_patience": "train.patience",
    "sequence_len": "train.max_length",
    "max_seq_length": "train.max_length",
    "max_seq_len": "train.max_length",
    "cutoff_len": "train.max_length",
    "per_device_eval_batch_size": "evaluate.batch_size",
    "output_dir": "output",
}
"""Names that other programs use: the name here."""

REFUSED = {
    "gradient_accumulation_steps": (
        "train.batch_size is the number of rows in one optimiser step, and micro-batches are cut to fit "
        "train.micro_batch_tokens. Set batch_size to per_device_train_batch_size x gradient_accumulation_steps"
    ),
    "trust_remote_code": "code from a model repository is never run",
}
"""Names that other programs use and that have no counterpart: why."""


@dataclass(frozen=True)
class Setting:
    """A value for one key, and where it was given ("config.yaml, line 3", "--epochs", "" for Python)."""

    path: tuple[str, ...]
    value: Any
    origin: str = ""

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)

    def __str__(self) -> str:
        return f"{self.name} ({self.origin})" if self.origin else self.name


def flatten(tree: Mapping[str, Any], origins: Mapping[tuple[str, ...], str] | None = None) -> list[Setting]:
    """Turn a mapping of sections into settings: one for each key of a section, one for each other top-level entry."""
    origins = origins or {}
    found = []
    for key, value in tree.items():
        if key in SECTIONS and isinstance(value, Mapping):
            found += [Setting((key, str(k)), v, origins.get((key, str(k)), "")) for k, v in value.items()]
        elif key not in SECTIONS or value is not None:  # None: a section's name with nothing under it
            found.append(Setting((key,), value, origins.get((key,), "")))
    return found


def parse_assignment(path: tuple[str, ...], text: str) -> Any:
    """Turn the text of `key=value` or of a flag into the value that the key takes.

    A key that takes text gets the text as it is, blanks at its ends included; `\\n` is a line break, for a shell has
    no easy way to write one. Other keys get what YAML makes of it: a number, true, null, a list, or the text again.
    """
    if text in ("null", "none", "None"):
        return None
    key = _known_as(path)
    text = text.replace("\\n", "\n")
    types_taken = _types_taken(key)
    if types_taken == {str} or (types_taken == {list} and not text.startswith("[")):
        return text
    try:
        value = yaml_text.parse(text)
    except Exception:  # text that is no YAML is text
        return text
    # `a: b` and `{text}` are templates or names, unless the key takes a mapping, as those of the adapter may.
    return text if isinstance(value, Mapping) and key[0] != "adapter" and dict not in types_taken else value


def translate(settings: Iterable[Setting], problems: list[str]) -> list[Setting]:
    """Bring names that other programs use, and short forms, to the names of the schema; say so in one note.

    What cannot be translated, and a key given twice under two names, is added to `problems`.
    """
    translated: dict[tuple[str, ...], Setting] = {}
    renamed = []
    for setting in settings:
        if setting.path[-1] in REFUSED:
            problems.append(f"{setting}: there is no such key: {REFUSED[setting.path[-1]]}.")
            continue
        path = _known_as(setting.path)
        if path != setting.path and setting.path[0] not in SHORT:
            renamed.append(f"{setting.name} is {'.'.join(path)}")
        if path in translated:
            problems.append(f"{setting}: {'.'.join(path)} is given a second time; before: {translated[path]}.")
        translated[path] = replace(setting, path=path)
    if renamed:
        note(f"Names used here: {'; '.join(renamed)}.")
    return list(translated.values())


def assemble(settings: Iterable[Setting]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put settings together, later ones over earlier ones; return the tree and each dotted name's origin."""
    tree: dict[str, Any] = {}
    origins = {}
    # A section given as something else comes last, so that it is found wrong and not written over by its keys.
    for setting in sorted(settings, key=lambda setting: len(setting.path) == 1):
        place = tree
        for part in setting.path[:-1]:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[setting.path[-1]] = plain(setting.value)
        origins[setting.name] = setting.origin
    return tree, origins


def plain(value: Any) -> Any:
    """Turn paths into text, wherever they are."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is dict:
        return {key: plain(entry) for key, entry in value.items()}
    return value


def _known_as(path: tuple[str, ...]) -> tuple[str, ...]:
    section, key = path[0], path[-1]
    if len(path) == 1 and key in SHORT:
        return (section, SHORT[key])
    known = ALIASES.get(key) if len(path) == 1 or not _is_own(path) else None
    return tuple(known.split(".")) if known else path


def _is_own(path: tuple[str, ...]) -> bool:
    """Return whether the key may be a section's own: lora_alpha is a key of adapter, and epochs one of train."""
    section: Any = SECTIONS.get(path[0])
    if section is None or len(path) > 2:
        return True
    own_of_method = path[0] == "adapter" and ALIASES.get(path[1], "").endswith(f".{path[1]}")
    return own_of_method or path[1] in section.model_fields


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, or the type itself, without what Annotated adds."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return [get_args(part)[0] if get_origin(part) is Annotated else part for part in parts]


def sections_with(key: str) -> list[str]:
    """Return the names of the sections that have this key."""
    return [name for name, section in SECTIONS.items() if key in section.model_fields]


def _types_taken(path: tuple[str, ...]) -> set[Any]:
    """Return the types of the key's values but null; a key that the schema does not know has none."""
    section: Any = SECTIONS.get(path[0]) if len(path) == 2 else Config
    field = section.model_fields.get(path[-1]) if section else None
    parts = members(field.annotation) if field else []
    return {get_origin(part) or part for part in parts if part is not type(None)}
