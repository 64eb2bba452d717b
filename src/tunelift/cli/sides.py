"""The options that say what metrics and columns of anybody's files mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def side_options(command: Command) -> Command:
    """Give a command --higher-better and --lower-better, tuples of names, and --columns: {role: column}."""
    higher = click.option(
        "--higher-better", metavar="METRIC", multiple=True, help="A higher value of this metric is better. Repeatable."
    )
    lower = click.option(
        "--lower-better", metavar="METRIC", multiple=True, help="A lower value of this metric is better. Repeatable."
    )
    columns = click.option(
        "--columns",
        metavar="ROLE=NAME,...",
        callback=_roles,
        help="What a table's columns are: id=.., input=.., reference=.., prediction=.., group=..; group= for none.",
    )
    return higher(lower(columns(command)))


def _roles(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, str]:
    """Return the roles and their columns; UsageError for what is no ROLE=NAME."""
    parts = [part.partition("=") for part in (value or "").split(",") if part.strip()]
    if wrong := [role for role, equals, _ in parts if not equals]:
        raise click.UsageError(f"--columns takes ROLE=NAME, such as id=qid,input=question; {wrong[0]!r} has no =.", ctx)
    return {role.strip(): name.strip() for role, _, name in parts}
