"""Options that several commands have: sizes and times, what others' files mean, and gates, with how one ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunelift.cli.failures import GATE_FAILED

if TYPE_CHECKING:
    from tunelift.comparison.gates import Gate

Command = TypeVar("Command", bound=Callable[..., Any])

STORAGE = "Keep what is made at an address too, such as s3://bucket/folder: workers share no folder then."
AT_ONCE = "So many trainings at a time on a machine, fewer where they would not fit into memory together."


BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return the bytes of a size of memory, such as 8GB, 512MiB or 1000000."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?|)b?", (value or "").strip().lower())
    if value is not None and (match is None or float(match[1]) <= 0):
        raise click.BadParameter(f"{value!r} is no size; write 8GB, 512MiB or a number of bytes.", ctx, param)
    return int(float(match[1]) * BYTES[match[2]]) if match else None


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a time, such as 30m, 1h30m or 90."""
    if value is None:
        return None
    text = value.strip().lower()
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(min|[smhd]|)", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise click.BadParameter(f"{value!r} is no time; write 30m, 1h30m or a number of seconds.", ctx, param)
    return seconds


def gate_options(command: Command) -> Command:
    """Give a command --require-better and --require-no-worse: tuples of names."""
    better = click.option(
        "--require-better",
        metavar="METRIC",
        multiple=True,
        help="Exit with 3 unless tuned is shown to be better than the base on it. Repeatable.",
    )
    no_worse = click.option(
        "--require-no-worse",
        metavar="METRIC",
        multiple=True,
        help="Exit with 3 unless tuned is shown to be no worse than the base by --margin, in the metric's units "
        "(0.01 is one point of accuracy). Repeatable.",
    )
    return better(no_worse(command))


def check_margin(ctx: click.Context, no_worse: Sequence[str], margin: float | None) -> None:
    """Raise UsageError for --require-no-worse without a margin, before anything is measured."""
    if no_worse and margin is None:
        raise click.UsageError(
            "--require-no-worse needs --margin: the difference that is too small to matter, in the metric's own units "
            "(0.01 is one point of accuracy).",
            ctx,
        )


def close(ctx: click.Context, gates: Sequence[Gate], *, show: bool = True, to_stderr: bool = False) -> None:
    """Print what each gate required and what was found, and exit with 3 where one did not pass.

    To be called when the command has printed its result; standard error is for a result that a program reads.
    """
    for gate in gates if show else ():
        click.echo(str(gate), err=to_stderr)
    if not all(gate.passed for gate in gates):
        ctx.exit(GATE_FAILED)


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
    parts = [part.partition("=") for part in (value or "").split(",") if part.strip()]
    if wrong := [role for role, equals, _ in parts if not equals]:
        raise click.UsageError(f"--columns takes ROLE=NAME, such as id=qid,input=question; {wrong[0]!r} has no =.", ctx)
    return {role.strip(): name.strip() for role, _, name in parts}
