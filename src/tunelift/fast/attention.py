"""Attention over packed rows, put in through transformers' own registry of attention functions.

The model asks the registry for a mask and gets its own rule back (which positions may see which), and asks it for
attention, which is then computed block by block; so sliding windows and chunks are the model's own. A call without a
packed row goes to the function that the model had before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.fast import block_attention
from tunelift.fast.packed_rows import Block, PackedRow

NAME = "packed_"
"""Our functions are registered as this and the name of the function that a model had before."""

REFUSED = ("position_bias", "s_aux", "head_mask")
"""Arguments of attention functions that change the result and are not known here."""

MOST_POSITIONS = 1024
"""Up to so many the rule is asked for all positions at once, rather than by each block for its own."""

_current: ContextVar[PackedRow | None] = ContextVar("the packed row of the calls inside", default=None)


class UnpackableError(Exception):
    """This model's attention cannot be computed over packed rows; the message says why."""


class AttentionReached(Exception):  # noqa: N818 - no error: the way out of a layer of which no more is wanted
    """The keys and values are kept, and the rule says to stop at that."""


@contextmanager
def packed(config: Any, packed_row: PackedRow) -> Iterator[None]:
    """Let the model with this transformers config see one packed row, laid out so, for the calls inside."""
    before = config._attn_implementation
    config._attn_implementation = registered(before)
    token = _current.set(packed_row)
    try:
        yield
    finally:
        _current.reset(token)
        config._attn_implementation = before


def packed_inputs(packed_row: PackedRow, device: torch.device) -> dict[str, Any]:
    """Return what is not computed yet as the inputs of a decoder: ids, positions and a mask of ones, each (1, N)."""
    new = slice(packed_row.computed, None)
    both = (torch.tensor([values[new]], dtype=torch.long) for values in (packed_row.ids, packed_row.positions))
    ids, positions = (values.to(device) for values in both)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "use_cache": False}


def registered(name: str | None) -> str:
    """Return the name of our attention in place of the one called `name`, registered on first use."""
    from transformers import AttentionInterface, AttentionMaskInterface

    name = name or "eager"
    if name.startswith(NAME):
        return name
    AttentionInterface.register(NAME + name, partial(_attention, name))
    AttentionMaskInterface.register(NAME + name, partial(_mask, name))
    return NAME + name


class Rule:
    """A model's own rule of who attends to whom, for the blocks of a packed row. It travels as the attention mask.

    One that `stops` ends the layer by `AttentionReached` once its keys and values are kept.
    """

    def __init__(self, packed_row: PackedRow, allowed: Callable[..., Tensor], stops: bool = False) -> None:
        self.packed_row, self.allowed, self.stops = packed_row, allowed, stops
        self._masks: dict[int, Tensor] = {}
        self._folded: dict[tuple[int, int, torch.device], Tensor | None] = {}
        self._plans: dict[int, block_attention.AttentionPlan] = {}

    def plan(self, share: int) -> block_attention.AttentionPlan:
        """Return the blocks as the kernels take them, for so many heads of queries to one of keys."""
        if share not in self._plans:
            self._plans[share] = block_attention.planned(self.packed_row, share, self._mask)
        return self._plans[share]

    @cached_property
    def most(self) -> tuple[int, int]:
        """What the blocks come to, as the kernels ask for it."""
        return block_attention.most_of(self.packed_row)

    def causal(self, number: int) -> bool:
        """Tell whether a block attends to itself alone, each token to those up to it."""
        mask = self._mask(number)
        return mask.shape[0] == mask.shape[1] and torch.equal(mask, torch.ones_like(mask).tril())

    def folded(self, number: int, groups: int, device: torch.device) -> Tensor | None:
        """Return the mask (groups * n, c) of a block over what it attends to; None where it attends to all of it."""
        key = number, groups, device
        if key not in self._folded:
            mask = self._mask(number)
            self._folded[key] = None if bool(mask.all()) else mask.repeat(groups, 1).to(device)
        return self._folded[key]

    def _mask(self, number: int) -> Tensor:
        if number not in self._masks:
            self._masks[number] = self._made(self.packed_row.blocks[number])
        return self._masks[number]

    def _made(self, block: Block) -> Tensor:
        packed_row = self.packed_row
        seen = list(range(packed_row.past.tokens)) if packed_row.past else []
        for other in (*(packed_row.blocks[b] for b in block.before), block):
            seen.extend(packed_row.positions[other.start : other.stop])
        own = packed_row.positions[block.start : block.stop]
        mask = self._between(own, seen)
        if block.sees is not None:
            mask = mask.clone()
            mask[:, -block.sees.shape[1] :] &= block.sees
        if not bool(mask.any(dim=1).all()):
            raise UnpackableError("some token sees no other, nor itself")
        return mask

    def _between(self, own: list[int], seen: list[int]) -> Tensor:
        """Return the rule for tokens at these positions, (own, seen): a part of a table where many blocks ask."""
        if self._table is None:
            return self._asked(_numbers(own), _numbers(seen))
        rows, columns = (_slice(places) for places in (own, seen))
        if rows is not None and columns is not None:
            return self._table[rows, columns]
        return self._table[_numbers(own)][:, _numbers(seen)]

    @cached_property
    def _table(self) -> Tensor | None:
        """The rule between all positions there are, unless that is more than is asked for."""
        packed_row = self.packed_row
        end = max([packed_row.past.tokens if packed_row.past else 0, *(place + 1 for place in packed_row.positions)])
        places = torch.arange(end, dtype=torch.long, device="cpu") if end <= MOST_POSITIONS else None
        return None if places is None or len(packed_row.blocks) == 1 else self._asked(places, places)

    def _asked(self, own: Tensor, seen: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.long, device="cpu")
        return self.allowed(zero, zero, own[:, None], seen[None]).expand(len(own), len(seen))


def _numbers(places: list[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.long, device="cpu")


def _slice(places: list[int]) -> slice | None:
    """Return positions that follow one another as a slice, None for others."""
    first = places[0] if places else 0
    return slice(first, first + len(places)) if places == list(range(first, first + len(places))) else None


def _mask(name: str, **arguments: Any) -> Any:
    packed_row = _current.get()
    if packed_row is not None:
        return Rule(packed_row, arguments["mask_function"])
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    return ALL_MASK_ATTENTION_FUNCTIONS[name](**arguments)


def _attention(
    name: str, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    if isinstance(attention_mask, Rule):
        if name == "sdpa":  # caps nothing, and older versions of transformers run Gemma 2 with it all the same
            options["softcap"] = None
        return _over_blocks(module, query, key, value, attention_mask, options), None
    if _current.get() is not None:
        raise UnpackableError("its attention takes no rule from the registry")
    return _original(name, module)(module, query, key, value, attention_mask, **options)


def _original(name: str, module: Any) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return the function a model had before; the eager one is a function of the model's own file."""
    import sys

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    return found


def _over_blocks(module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule, options: dict[str, Any]) -> Tensor:
    """Attend block by block: query (1, H, N, d), key and value (1, G, N, d) with G dividing H -> (1, N, H, d)."""
    if any(options.get(name) is not None for name in REFUSED):
        raise UnpackableError("its attention adds something that is not known here")
    packed_row = rule.packed_row
    kept = packed_row.keep.layers.setdefault(getattr(module, "layer_idx", 0), []) if packed_row.keep else []
    first = len(kept)
    lengths = [block.stop - block.start for block in packed_row.blocks[first:]]
    kept.extend(zip(torch.split(key, lengths, dim=2), torch.split(value, lengths, dim=2), strict=True))
    if rule.stops:
        raise AttentionReached
    past = packed_row.past.layers[module.layer_idx] if packed_row.past else []
    if block_attention.suits(query, key, value, rule.most, options):
        if past or first:
            key, value = (_joined([pair[i] for pair in (*past, *kept)]) for i in (0, 1))
        return block_attention.attend(query, key, value, rule.plan(query.shape[1] // key.shape[1]), options)
    parts = []
    for number, own in enumerate(torch.split(query, lengths, dim=2), first):
        seen = [*past, *(kept[b] for b in (*packed_row.blocks[number].before, number))]
        k, v = (_joined([pair[i] for pair in seen]) for i in (0, 1))
        parts.append(_attend(own, k, v, rule, number, options))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attend(query: Tensor, key: Tensor, value: Tensor, rule: Rule, number: int, options: dict[str, Any]) -> Tensor:
    """Attend with query (1, H, n, d), key and value (1, G, c, d) -> (1, H, n, d)."""
    heads, n = query.shape[1], query.shape[2]
    groups = heads // key.shape[1]
    dropout, scale = options.get("dropout") or 0.0, options.get("scaling")
    if options.get("softcap") is None and rule.causal(number):
        key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value, None, dropout, is_causal=True, scale=scale)
    # Queries that share a head of keys become one longer run of queries, so that no keys are copied.
    query = query.reshape(1, key.shape[1], groups * n, query.shape[3])
    mask = rule.folded(number, groups, query.device)
    if options.get("softcap") is None:
        found = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=scale)
    else:
        found = _soft_capped(query, key, value, mask, options)
    return found.reshape(1, heads, n, -1)


def _soft_capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Attend with scores that are soft-capped before the mask (Gemma 2)."""
    scale, cap = options.get("scaling") or query.shape[-1] ** -0.5, options["softcap"]
    scores = torch.tanh(query @ key.transpose(2, 3) * scale / cap) * cap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)  # as transformers' eager attention does
    return F.dropout(shares, options.get("dropout") or 0.0) @ value
