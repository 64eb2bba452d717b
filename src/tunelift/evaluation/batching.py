"""Items computed together: sorted by length, so that little is padding, and limited in rows and in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOKENS_AT_ONCE = 4096


def by_length(lengths: Sequence[int], rows_at_once: int, tokens_at_once: int = TOKENS_AT_ONCE) -> Iterator[list[int]]:
    """Yield groups of indices, longest first, each at most so many rows and padded tokens (at least one row)."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        width = lengths[group[0]] if group else lengths[index]
        if group and (len(group) == rows_at_once or width * (len(group) + 1) > tokens_at_once):
            yield group
            group = []
        group.append(index)
    if group:
        yield group
