"""How a command ends: exit codes, and errors on standard error without a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from tunelift.core import stopping
from tunelift.core.errors import TuneliftError

GATE_FAILED = 3
"""The result was printed, but does not show what --require-better or --require-no-worse asked for."""

INTERRUPTED = 130
"""By Ctrl-C; 143 where the process was told to end, as `core.stopping` has it."""


def exit_code_of(action: Callable[[], Any], debug: bool) -> int:
    """Run `action`; print what went wrong, with the traceback if `debug`, and return the exit code."""
    try:
        with stopping.signals():
            result = action()
        return result if isinstance(result, int) else 0  # click returns the code of ctx.exit()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error  # click puts an Abort around an interruption
        _say("\n".join(["Interrupted.", *getattr(cause, "__notes__", [])]))
        return getattr(cause, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output (head, less) has seen enough; Python must not write the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _failed(error, debug)


def message(error: TuneliftError) -> str:
    """Return "Error: ..." with the fix on a line of its own, or the number of problems and a line for each."""
    count = len(error.problems)
    return f"Error: {error}" if count == 1 else f"Error: {count} problems\n{error}"


def _failed(error: Exception, debug: bool) -> int:
    ours = isinstance(error, TuneliftError)
    expected = ours or isinstance(error, OSError)  # a full disk or a missing permission is no bug
    if debug or not expected:
        traceback.print_exception(error)
    if isinstance(error, TuneliftError):
        _say(message(error))
        return error.exit_code
    if expected:
        _say(f"Error: {error}\nRun the command with --debug to see where.")
    else:
        _say(f"Error: this is a bug in tunelift ({type(error).__name__}). Please report it with the traceback above.")
    return 1


def _say(text: str) -> None:
    click.echo(text, err=True)
