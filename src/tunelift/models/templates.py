"""Chat templates are strangers' programs: checked here before transformers renders them in its sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

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
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > MAX_CHARACTERS:
        raise InputError(f"{where} has {len(template):,} characters; at most {MAX_CHARACTERS:,} are rendered.")
    # transformers' own tag around what the assistant writes
    text = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
        wrong = next(_wrong(tree), None)
    except TemplateSyntaxError:
        return
    except (RecursionError, ValueError):  # ValueError: a number of thousands of digits
        wrong = "is nested too deep, or counts too far"
    if wrong:
        raise InputError(f"{where} {wrong}; it is not rendered.")


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
