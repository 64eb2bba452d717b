"""Figures on the page: rounded for the eye, whole for a machine, each with its place in comparison.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelift.reporting import wording

if TYPE_CHECKING:
    from markupsafe import Markup

FORMS: dict[str, Callable[[float | None], str]] = {
    "number": wording.number,
    "signed": wording.signed,
    "p": wording.p_figure,
    "count": wording.count,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Looks figures up in comparison.json, so that what a page shows cannot be another one."""

    comparison: Mapping[str, Any]

    def __call__(self, at: Sequence[str | int], form: str = "number") -> Markup:
        """Return the figure at a place as a `<data>` element; a dash where it is not known."""
        from markupsafe import Markup

        value = looked_up(self.comparison, at)
        if value is None:
            return Markup(wording.DASH)
        element = '<data value="{}" data-at="{}">{}</data>'
        return Markup(element).format(value, pointer(at), FORMS[form](value))

    def interval(self, at: Sequence[str | int]) -> Markup:
        """Return both ends of the interval at a place; a dash where there is none."""
        from markupsafe import Markup

        if not looked_up(self.comparison, at):
            return Markup(wording.DASH)
        return Markup("{} to {}").format(self([*at, 0], "signed"), self([*at, 1], "signed"))


def looked_up(comparison: Any, at: Sequence[str | int]) -> Any:
    """Return what stands at a place; None where there is no such place."""
    value = comparison
    for step in at:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def pointer(at: Sequence[str | int]) -> str:
    """Return a place as a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in at)
