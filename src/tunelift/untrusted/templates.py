"""Chat templates are strangers' programs: checked before they are rendered in a sandbox, and bounded while they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tunelift.core import limits
from tunelift.core.errors import InputError

MAX_CHARACTERS = 2**20
"""The longest in use have 30,000."""

MAX_NUMBER = 1_000_000
INSIDES = re.compile(r"__\w+__|(f|gi|cr|ag|tb)_\w*(globals|code|frame|builtins)\w*|mro")
"""Names of Python's insides, by which templates leave a sandbox that has a hole."""


def check(template: str, where: str) -> None:
    """Raise InputError for a template that imports, reaches for Python's insides, or is made to never end.

    One that is merely broken is let pass: a model can be used without it, and it is refused when it is to be rendered.
    """
    from jinja2 import TemplateSyntaxError

    if len(template) > MAX_CHARACTERS:
        raise InputError(f"{where} has {len(template):,} characters; at most {MAX_CHARACTERS:,} are rendered.")
    try:
        wrong = next(_wrong(parsed(template)), None)
    except TemplateSyntaxError:
        return
    except (RecursionError, ValueError):
        wrong = "is nested too deep, or counts too far"
    if wrong:
        raise InputError(f"{where} {wrong}; it is not rendered.")


def parsed(template: str) -> Any:
    """Return the syntax tree; raises TemplateSyntaxError, RecursionError, or ValueError for a number of many digits."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # transformers' own tag around what the assistant writes
    text = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    return ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)


@contextmanager
def bounded(what: str, seconds: float = 10, more_bytes: int = 2 * 2**30) -> Iterator[None]:
    """Run a stranger's program, such as a chat template: InputError, beginning with `what`, once it needs too much.

    Memory is bounded on Linux, to `more_bytes` beyond what the process has; time where signals are to be had (not on
    Windows) and in the main thread. Limits of others, within and without, hold beside these.
    """
    overtime = limits.OvertimeError()
    try:
        with limits.memory(more_bytes), limits.time(seconds, overtime):
            yield
    except limits.OvertimeError as error:
        if error is not overtime:
            raise
        raise InputError(f"{what} did not end within {seconds:g} seconds.") from error
    except (MemoryError, RecursionError) as error:
        raise InputError(f"{what} grew beyond what memory and stack are given to it.") from error


def _wrong(tree: Any) -> Iterator[str]:
    from jinja2 import nodes

    for _ in tree.find_all((nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends)):
        yield "loads another template"
    for node in tree.find_all((nodes.Getattr, nodes.Const)):
        name = node.attr if isinstance(node, nodes.Getattr) else node.value
        if isinstance(name, str) and INSIDES.fullmatch(name):
            yield f'reaches for Python\'s insides ("{name}")'
        if isinstance(name, int | float) and name > MAX_NUMBER:
            yield f"counts to more than {MAX_NUMBER:,}"
    for _ in tree.find_all(nodes.Pow):
        yield "raises to powers, as a conversation never needs"
