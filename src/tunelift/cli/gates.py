"""The options of a gate, and how a command with one ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tunelift.cli.failures import GATE_FAILED

if TYPE_CHECKING:
    from tunelift.comparison.gates import Gate

Command = TypeVar("Command", bound=Callable[..., Any])


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
