"""A command whose options mirror the keys of the config, made from the schema when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunelift.core import progress

if TYPE_CHECKING:
    from tunelift.config.keywords import Stage
    from tunelift.config.load import Check
    from tunelift.config.schema import Config

SETTINGS = {"max_content_width": 110, "help_option_names": ["-h", "--help"]}
MEASURING = tuple(
    f"evaluate.{key}" for key in ("metrics", "max_new_tokens", "stop", "label_score", "batch_size", "slices", "cache")
)
"""Keys of the config for commands that measure one model, without baselines or training."""
NEEDED = {
    "model.name": "no model is named. Give --model NAME, or model: in the config",
    "data.train": "no data is given. Give --data FILE, or data: in the config",
    "data.test": "no test rows are given. Give --data FILE, or test: below data: in the config",
}


class KeyCommand(click.Command):
    """A command with an option for each key of `keys`: names of sections, or dotted names of single keys.

    The schema is imported for parsing and for help only, and not before: that of `compare` is not needed for two files.
    """

    def __init__(self, *arguments: Any, keys: Sequence[str] = (), stage: Stage = "train", **settings: Any) -> None:
        super().__init__(*arguments, **{"context_settings": SETTINGS, "options_metavar": "[OPTIONS]", **settings})
        self.keys = keys
        self.stage = stage

    def needs_keys(self, args: Sequence[str]) -> bool:
        """Return whether these arguments call for the options of the schema."""
        return bool(self.keys)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["tunelift.keys"] = self.needs_keys(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = [*super().get_params(ctx), *common_options()]
        if not ctx.meta.get("tunelift.keys"):
            return own
        from tunelift.cli.options import key_options

        taken = {name for param in own for name in param.opts}
        return [*own, *(option for option in key_options(self.keys, self.stage) if not taken & set(option.opts))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under a heading for each section of the config."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def common_options() -> list[click.Parameter]:
    """Return the options that every command has."""
    return [
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help="No notes, no progress."
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."),
    ]


config_arguments = click.argument("arguments", nargs=-1, metavar="[CONFIG.yaml] [KEY=VALUE]...")
"""The positional arguments of most commands."""


def config_of(
    ctx: click.Context,
    arguments: Sequence[str],
    *,
    needs: Sequence[str] = (),
    checks: Sequence[Check] = (),
    flags: dict[str, Any] | None = None,
) -> Config:
    """Return the config of the file, the overrides and the flags of a command line.

    `needs` are dotted names of what must be given. Raises InputError with every problem.
    """
    from tunelift.cli.options import FLAGS
    from tunelift.config.load import load_config

    file, overrides = _split(ctx, arguments)
    given = {**ctx.meta.get(FLAGS, {}), **(flags or {})}
    return load_config(file, overrides, given, [partial(_missing, needs=needs), *checks])


def adapter_problems(config: Config) -> list[str]:
    """Return what is wrong with the adapter's keys, by the fields of the method's own PEFT config."""
    from tunelift.adapters.build import check_keys

    return check_keys(config.adapter.model_dump())


def _split(ctx: click.Context, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    files = [argument for argument in arguments if "=" not in argument]
    for file in files:
        if not file.endswith((".yaml", ".yml")):
            hint = " A data file is given by --data." if Path(file).exists() else ""
            raise click.UsageError(f'"{file}" is neither a config file (.yaml) nor key=value.{hint}', ctx)
    if len(files) > 1:
        raise click.UsageError(f"Give one config file, not {len(files)}: {', '.join(files)}.", ctx)
    return (files[0] if files else None), [argument for argument in arguments if "=" in argument]


def _missing(config: Config, needs: Sequence[str]) -> list[str]:
    return [f"{name}: {NEEDED[name]}." for name in needs if attrgetter(name)(config) in (None, "")]


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    progress.quiet = progress.quiet or value
