"""Options made from the schema: dashed names, the key's sentence, its default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, get_origin

import click
from pydantic.fields import FieldInfo

from tunelift.adapters.methods import METHODS
from tunelift.config.keywords import Stage, places
from tunelift.config.schema import Config, choices
from tunelift.config.settings import SECTIONS, SHORT, members
from tunelift.core.registry import known_names

FLAGS = "tunelift.flags"
"""Where the context of a command keeps what its options say, by the dotted names of keys."""


def _metrics() -> Iterable[str]:
    from tunelift.metrics import METRICS

    return METRICS


KNOWN: dict[str, Callable[[], Iterable[str]]] = {
    "method": lambda: METHODS,
    "metrics": _metrics,
    "baselines": partial(known_names, "baseline", "tunelift.evaluation.baselines"),
}
"""Where the names come from that stand for {choices} in the help of a key, unless its type names them."""
METAVARS = {str: "TEXT", int: "NUMBER", float: "NUMBER", list: "LIST", dict: "{NAME: VALUE}"}


class KeyOption(click.Option):
    """The option of a key; its value goes to the flags of the context, under every dotted name it stands for.

    The names for {choices} in its help are asked for when the help is, as some cost an import.
    """

    def __init__(
        self, declaration: str, heading: str, names: Sequence[str], known: Callable[[], Iterable[str]], **settings: Any
    ) -> None:
        super().__init__([declaration], expose_value=False, callback=self._keep, **settings)
        self.heading = heading
        self.names_set = names
        self.known = known

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.help and "{choices}" in self.help:
            self.help = self.help.replace("{choices}", ", ".join(self.known()))
        return super().get_help_record(ctx)

    def _keep(self, ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.meta.setdefault(FLAGS, {}).update(dict.fromkeys(self.names_set, value))


def key_options(keys: Sequence[str], stage: Stage) -> list[click.Option]:
    """Return an option for each key: `keys` are sections, dotted names, or top-level keys.

    A name that two sections have is made once; `places` says what it stands for. Its heading is the first section.
    """
    options: dict[str, click.Option] = {}
    for section, key, field in _fields(keys):
        name = _flag(section, key, stage)
        if name is None or name in options:
            continue
        flag, heading, said = name.replace("_", "-"), section.capitalize() or "Run", _help(field)
        names, known = places(name, stage), KNOWN.get(name) or partial(choices, field.annotation)
        if field.annotation is bool:
            options[name] = KeyOption(f"--{flag}/--no-{flag}", heading, names, known, default=None, help=said)
        else:
            options[name] = KeyOption(f"--{flag}", heading, names, known, metavar=_metavar(name, field), help=said)
    return list(options.values())


def _fields(keys: Sequence[str]) -> Iterator[tuple[str, str, FieldInfo]]:
    for name in keys:
        section, _, key = name.partition(".")
        if section not in SECTIONS:
            yield "", section, Config.model_fields[section]
            continue
        for field_name, field in SECTIONS[section].model_fields.items():
            if key in ("", field_name):
                yield section, field_name, field


def _flag(section: str, key: str, stage: Stage) -> str | None:
    """Return the option's name: that of the section for its short key; none for the rows of another stage."""
    if section == "data" and key in ("train", "test"):
        own = "test" if stage == "evaluate" else "train"
        return "data" if key == own else ("test" if stage == "train" else None)
    return "model" if (section, key) == ("model", SHORT["model"]) else key


def _help(field: FieldInfo) -> str:
    default = field.default if field.default_factory is None else None
    if isinstance(default, bool):
        default = "on" if default else "off"
    return f"{field.description}  [default: {default}]" if default not in (None, "") else str(field.description)


def _metavar(name: str, field: FieldInfo) -> str:
    if name in ("data", "test"):
        return "FILE"
    part = next(part for part in members(field.annotation) if part is not type(None))
    if named := choices(field.annotation):
        return f"[{'|'.join(named)}]"
    return METAVARS.get(get_origin(part) or part, "VALUE")
