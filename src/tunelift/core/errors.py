"""Errors that say what is wrong, where, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TuneliftError(Exception):
    """Something failed while running; the command line exits with 1."""

    exit_code = 1

    def __init__(self, *problems: str, fix: str | None = None) -> None:
        """Take one sentence per problem (what is wrong and where) and, in `fix`, what to do about it."""
        self.problems = problems
        self.fix = fix
        lines = list(problems) if len(problems) == 1 else [f"- {problem}" for problem in problems]
        super().__init__("\n".join([*lines, fix] if fix else lines))


class InputError(TuneliftError):
    """Wrong usage, configuration or input: nothing was run or written; the command line exits with 2."""

    exit_code = 2


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean "x"?` for the nearest allowed name, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


def listed(names: Iterable[str], limit: int = 20) -> str:
    """Return `a, b, c` for a message, cut after `limit` names with the number left out."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
