"""The date that chat templates write: one for all of a run, however long it takes and whenever it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import Any

from tunelift.untrusted.templates import parsed

_PROCESS_BEGAN = datetime.now()
_now: ContextVar[datetime | None] = ContextVar("now", default=None)


@contextmanager
def dated(moment: datetime) -> Iterator[None]:
    """Tell chat templates that it is this moment; otherwise it is the one at which the process began."""
    token = _now.set(moment)
    try:
        yield
    finally:
        _now.reset(token)


@cache
def with_one_date(template: str) -> tuple[str, tuple[str, ...]]:
    """Return a chat template that takes its dates from the argument `dates_written`, and the forms of those dates.

    transformers gives a template the time by a function of its own, and no function is taken in its place. So the
    template itself begins with one, which looks the date up by its form. A template that puts the form together as it
    goes is returned as it is.
    """
    from jinja2 import nodes

    tree = _parsed(template)
    found = [] if tree is None else tree.find_all(nodes.Call)
    calls = [call for call in found if getattr(call.node, "name", None) == "strftime_now"]
    forms = [call.args[0].value for call in calls if len(call.args) == 1 and isinstance(call.args[0], nodes.Const)]
    if not calls or len(forms) < len(calls):
        return template, ()
    lookup = "{% macro strftime_now(form) %}{{ dates_written[form] }}{% endmacro %}{{ '' }}"
    return lookup + template, tuple(dict.fromkeys(map(str, forms)))


def dates_written(forms: tuple[str, ...]) -> dict[str, Any]:
    """Return the argument that `with_one_date` speaks of, where a template writes dates."""
    now = _now.get() or _PROCESS_BEGAN
    return {"dates_written": {form: now.strftime(form) for form in forms}} if forms else {}


@cache
def names_in(template: str) -> frozenset[str]:
    """Return the names that a chat template takes from outside; none where it cannot be read."""
    from jinja2 import meta

    tree = _parsed(template)
    return frozenset[str]() if tree is None else frozenset(meta.find_undeclared_variables(tree))


def _parsed(template: str) -> Any:
    """Return the syntax tree of a chat template, or None; one that is broken is refused where it is rendered."""
    from jinja2 import TemplateSyntaxError

    try:
        return parsed(template)
    except (TemplateSyntaxError, RecursionError, ValueError):
        return None
