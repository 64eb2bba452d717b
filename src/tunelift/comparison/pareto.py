"""Which of several are not beaten in everything: what costs less where it is shown to be no worse, and the like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Beats = Callable[[str, str], bool]
"""Whether the first is better than the second in one thing; neither is where the difference does not count."""


def front(names: Sequence[str], things: Sequence[Beats]) -> list[str]:
    """Return the names that no other beats in something without being beaten by it in anything."""

    def dominates(one: str, other: str) -> bool:
        return any(beats(one, other) for beats in things) and not any(beats(other, one) for beats in things)

    return [name for name in names if not any(dominates(other, name) for other in names if other != name)]
