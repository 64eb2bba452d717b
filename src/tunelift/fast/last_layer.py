"""The last layer at those tokens alone whose hidden states are asked for.

A loss at two tokens of a row, a label's score or a classification read few of the last hidden states. Of all other
tokens the last layer's keys and values are needed, and nothing else of it: it is run up to its attention with all of
them, and then to its end with those that are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.fast.attention import AttentionReached, Rule, UnpackableError
from tunelift.fast.packed_rows import PackedRow, Past
from tunelift.fast.undo import Undo
from tunelift.model_facts.anatomy import layers
from tunelift.model_facts.parameters import compute_dtype

SHARE_AT_MOST = 0.5
"""Above this share of the tokens, what is left out is no more than what is computed twice: queries, keys and values."""


def last_layer(decoder: nn.Module) -> nn.Module | None:
    """Return the last layer of a decoder or an encoder, None where its layers are no list of their own."""
    found = layers(decoder)
    return None if found is None else found[-1]


def computed_again(layer: nn.Module | None) -> bool:
    """Tell whether gradient checkpointing will call a layer once more, when the calls inside are over."""
    return bool(getattr(layer, "gradient_checkpointing", False))


def unsuited(layer: nn.Module | None) -> str | None:
    """Return why a last layer is not to be tried on some tokens alone, or None."""
    if layer is None:
        return "its layers are not found"
    if compute_dtype(layer) == torch.float64:
        return "norms compute in float32 and would round once more"
    return "gradient checkpointing computes layers again" if computed_again(layer) else None


@contextmanager
def only_at(layer: nn.Module | None, packed_row: PackedRow, places: Sequence[int] | None) -> Iterator[None]:
    """Let a model's last layer compute some tokens alone, for the calls inside; the hidden states of others are zero.

    `places` are among the tokens of the packed row that are not computed yet; with None all are computed.
    """
    tokens = len(packed_row.ids) - packed_row.computed
    if layer is None or places is None or len(places) > SHARE_AT_MOST * tokens or computed_again(layer):
        yield
        return
    undo = Undo()
    undo.put(layer, partial(_only_at, layer.forward, packed_row, sorted(set(places)) or [0]))
    try:
        yield
    finally:
        undo.all()


def _only_at(forward: Callable[..., Any], packed_row: PackedRow, places: list[int], *args: Any, **inputs: Any) -> Any:
    hidden: Tensor = args[0] if args else inputs["hidden_states"]  # (1, N, D)
    keep = packed_row.keep or Past(0)
    at = torch.tensor(places, dtype=torch.long, device=hidden.device)

    def to_the_keys(value: Any) -> Any:
        return Rule(replace(packed_row, keep=keep), value.allowed, stops=True) if isinstance(value, Rule) else value

    def chosen(value: Any) -> Any:
        if isinstance(value, Rule):
            return Rule(_behind(packed_row, places, keep), value.allowed)
        if isinstance(value, tuple):
            return tuple(map(chosen, value))
        each = isinstance(value, Tensor) and value.shape[:2] == hidden.shape[:2]
        return value.index_select(1, at) if each else value

    with suppress(AttentionReached):
        forward(*map(to_the_keys, args), **{name: to_the_keys(value) for name, value in inputs.items()})
        raise UnpackableError("its last layer asks the registry for no attention")
    found = forward(*map(chosen, args), **{name: chosen(value) for name, value in inputs.items()})
    states, *others = found if isinstance(found, tuple) else (found,)
    states = torch.zeros_like(hidden).index_copy(1, at, states)
    return (states, *others) if isinstance(found, tuple) else states


def _behind(packed_row: PackedRow, places: Sequence[int], keep: Past) -> PackedRow:
    """Return the packed row with all tokens computed, and those at some places once more behind them.

    These see what they saw before, and not their second selves.
    """
    known = replace(
        packed_row,
        ids=list(packed_row.ids),
        positions=list(packed_row.positions),
        blocks=list(packed_row.blocks),
        keep=keep.copy(),
        computed=len(packed_row.ids),
    )
    starts = [block.start for block in packed_row.blocks]
    for number, some in groupby(places, lambda place: bisect_right(starts, packed_row.computed + place) - 1):
        block, own = packed_row.blocks[number], [packed_row.computed + place for place in some]
        sees = torch.ones(len(own), block.stop - block.start + len(own), dtype=torch.bool, device="cpu")
        sees[:, -len(own) :] = False
        if block.sees is not None:
            sees[:, : -len(own)] = block.sees[[place - block.start for place in own]]
        ids, positions = ([values[place] for place in own] for values in (packed_row.ids, packed_row.positions))
        known.add(ids, positions, (*block.before, number), sees)
    return known
