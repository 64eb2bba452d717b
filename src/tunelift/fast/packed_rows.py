"""Rows laid end to end in one row of tokens, without padding, and what they share computed once.

The packed row is a list of blocks. A row of its own is one block; rows that begin alike share the block of that
beginning and attend to it. Sharing is exact, backward too: the gradients of all rows meet in the shared block
(known for preference pairs, arXiv 2410.20305).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHARED_AT_LEAST = 16
"""Tokens that rows must begin with alike before sharing them pays for its mask."""


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens start..stop of the packed row; they attend to the blocks in `before`, and to each other.

    `sees` (n, m) bool says to which of the last m tokens of all these each may attend, beside the model's own rule.
    """

    start: int
    stop: int
    before: tuple[int, ...] = ()
    sees: Tensor | None = None


@dataclass(slots=True)
class PackedRow:
    """A packed row: ids and positions (N,), its blocks, and for each row the places of its tokens in it.

    With `past` every block attends to those tokens too, whose keys and values are known already. One that has a
    `keep`, which takes its keys and values, may grow: once its first `computed` tokens are, only those behind them are
    computed, and may attend to blocks among the first.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    past: Past | None = None
    keep: Past | None = None
    computed: int = 0

    def add(
        self, ids: Sequence[int], positions: Sequence[int], before: tuple[int, ...] = (), sees: Tensor | None = None
    ) -> int:
        """Append a block and return its number."""
        self.blocks.append(Block(len(self.ids), len(self.ids) + len(ids), before, sees))
        self.ids.extend(ids)
        self.positions.extend(positions)
        return len(self.blocks) - 1

    def places(self, *blocks: int) -> list[int]:
        """Return the places of these blocks' tokens in the packed row."""
        return [place for b in blocks for place in range(self.blocks[b].start, self.blocks[b].stop)]


class Past:
    """Keys and values by layer, block by block: each (1, heads, tokens, size); a `past` of others is one block."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.layers: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def copy(self) -> Past:
        """Return one to which blocks can be added without this one's having them."""
        copy = Past(self.tokens)
        copy.layers = {layer: list(pairs) for layer, pairs in self.layers.items()}
        return copy


def pack(
    rows: Sequence[Sequence[int]], own_from: Sequence[int], share: bool = True, past: Past | None = None
) -> PackedRow:
    """Lay rows of token ids out; of each, only tokens before `own_from` may be shared with other rows.

    Targets depend on the token before them, so `own_from` is at most the place of the first one that predicts. With
    `past` the rows go on behind its tokens.
    """
    packed_row = PackedRow(rows=[[] for _ in rows], past=past)
    whole = list(range(len(rows)))
    _pack(packed_row, rows, own_from, whole if share else [], (), 0)
    if not share:
        for i in whole:
            _own(packed_row, rows, i, (), 0)
    return packed_row


def _pack(
    packed_row: PackedRow,
    rows: Sequence[Sequence[int]],
    own_from: Sequence[int],
    group: Sequence[int],
    before: tuple[int, ...],
    start: int,
) -> None:
    """Lay out the rows of a group, which agree up to `start` and lie in the blocks `before` that far."""
    for together in _beginning_alike(rows, group, start):
        end = min(_common(rows, together, start), *(own_from[i] for i in together)) if len(together) > 1 else start
        if end - start < SHARED_AT_LEAST:
            for i in together:
                _own(packed_row, rows, i, before, start)
            continue
        positions = range(_offset(packed_row) + start, _offset(packed_row) + end)
        shared = (*before, packed_row.add(rows[together[0]][start:end], positions, before))
        _pack(packed_row, rows, own_from, together, shared, end)


def _own(packed_row: PackedRow, rows: Sequence[Sequence[int]], i: int, before: tuple[int, ...], start: int) -> None:
    positions = range(_offset(packed_row) + start, _offset(packed_row) + len(rows[i]))
    packed_row.rows[i] = packed_row.places(*before, packed_row.add(rows[i][start:], positions, before))


def _offset(packed_row: PackedRow) -> int:
    return packed_row.past.tokens if packed_row.past else 0


def _beginning_alike(rows: Sequence[Sequence[int]], group: Sequence[int], start: int) -> list[list[int]]:
    """Split a group by the tokens that could be shared next, in the order of the rows."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i in group:
        alike.setdefault(tuple(rows[i][start : start + SHARED_AT_LEAST]), []).append(i)
    return list(alike.values())


def _common(rows: Sequence[Sequence[int]], group: Sequence[int], start: int) -> int:
    """Return up to which place all rows of a group are equal; the first and last in order tell."""
    first, last = min(list(rows[i][start:]) for i in group), max(list(rows[i][start:]) for i in group)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return start + same


def common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all rows begin with alike."""
    return _common(rows, range(len(rows)), 0) if rows else 0


def put_back(states: Tensor, packed_row: PackedRow, width: int) -> Tensor:
    """Return packed hidden states (N, D) as a padded batch (B, width, D), zero where there is padding."""
    nowhere = len(states)
    places = [[*row, *[nowhere] * (width - len(row))] for row in packed_row.rows]
    padded = torch.cat([states, states.new_zeros(1, states.shape[1])])
    return padded[torch.tensor(places, dtype=torch.long, device=states.device)]
