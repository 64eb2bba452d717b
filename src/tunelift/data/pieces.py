"""Documents longer than a row: cut into pieces, of which every token but the first is predicted once."""

from __future__ import annotations

Piece = tuple[list[int], list[int]]
"""What stands before, and the tokens that follow it."""


def pieces(before: list[int], ids: list[int], max_length: int) -> list[Piece]:
    """Return a text's tokens in rows of at most `max_length`, each behind what opens a text (`before`, BOS).

    A later piece begins with the last token of the one before, from which its own first is predicted. One piece, maybe
    too long, where `max_length` has no room for that.
    """
    room = max_length - len(before)
    if len(ids) <= room or room < 2:
        return [(before, ids)]
    found = [(before, ids[:room])]
    for at in range(room, len(ids), room - 1):
        found.append(([*before, ids[at - 1]], ids[at : at + room - 1]))
    return found
