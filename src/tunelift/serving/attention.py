"""Attention of a step: one row of tokens of many requests, each of which sees its own keys and values in the arena.

As in `fast/attention.py` it is put in through transformers' registry of attention functions, for the calls of the
engine alone: the model asks for a mask, and gets its own rule back; it asks for attention, and each request's tokens
attend to its pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.fast import block_attention
from tunelift.fast.attention import REFUSED, UnpackableError
from tunelift.fast.block_attention import AttentionPlan
from tunelift.serving.pages import PAGE

NAME = "paged_"
"""Our functions are registered as this and the name of the function that a model had before."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens start..stop of a step's row: those of one request from position `first` on, with its pages."""

    start: int
    stop: int
    first: int
    pages: Sequence[int]

    @property
    def seen(self) -> int:
        """Tokens that the last of them sees, itself among them."""
        return self.first + self.stop - self.start

    def places(self) -> list[int]:
        """Return where in the arena its own keys and values go."""
        return [self.pages[at // PAGE] * PAGE + at % PAGE for at in range(self.first, self.seen)]

    def runs(self) -> list[tuple[int, int]]:
        """Return where in the arena lies what it sees, (from, to) in order; pages that follow one another are one."""
        runs = list[tuple[int, int]]()
        for number, page in enumerate(self.pages[: -(-self.seen // PAGE)]):
            start, stop = page * PAGE, page * PAGE + min(PAGE, self.seen - number * PAGE)
            if runs and runs[-1][1] == start:
                runs[-1] = runs[-1][0], stop
            else:
                runs.append((start, stop))
        return runs


@dataclass(slots=True)
class Arena:
    """Keys and values of all requests, layer by layer: each (tokens, heads, size), made at the first call."""

    tokens: int
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a page to another page."""
        for both in self.layers:
            for x in both:
                x[target * PAGE : target * PAGE + tokens] = x[source * PAGE : source * PAGE + tokens]

    def layer(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the arena of a layer, whose keys and values are like these (1, heads, N, size)."""
        if number == len(self.layers):
            made = [x.new_empty(self.tokens, x.shape[1], x.shape[3]) for x in (key, value)]
            self.layers.append((made[0], made[1]))
        return self.layers[number]


class Step:
    """The parts of a step's row in order, and how far the model's call has come: layers are counted as they attend."""

    def __init__(self, arena: Arena, parts: Sequence[Part], device: torch.device) -> None:
        self.arena, self.parts, self.device = arena, parts, device
        self.calls = 0
        self.asked: list[Asked] | None = None
        """What each layer asks of attention, where that is wanted."""
        places = [place for part in parts for place in part.places()]
        self.places = torch.tensor(places, dtype=torch.long, device=device)
        self.runs = [part.runs() for part in parts]
        self._seen: dict[int, Tensor] = {}

    def seen_places(self, number: int, device: torch.device) -> Tensor:
        """Return where in the arena lies what a part sees, (c,)."""
        if number not in self._seen:
            ranges = [torch.arange(start, stop, device=device) for start, stop in self.runs[number]]
            self._seen[number] = torch.cat(ranges)
        return self._seen[number]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer's module asked of attention."""

    module: Any
    rule: PagedRule
    options: dict[str, Any]


class PagedRule:
    """A model's own rule of who attends to whom, for the parts of a step. It travels as the attention mask."""

    def __init__(self, step: Step, allowed: Callable[..., Tensor]) -> None:
        self.step, self.allowed = step, allowed
        self._masks: dict[int, Tensor] = {}
        self._plan: AttentionPlan | None = None

    def mask(self, number: int) -> Tensor:
        """Return which of the tokens seen each token of a part attends to, (n, c) bool, on the CPU."""
        if number not in self._masks:
            part = self.step.parts[number]
            own = torch.arange(part.first, part.seen, device="cpu")[:, None]
            seen = torch.arange(part.seen, device="cpu")[None]
            zero = torch.zeros((), dtype=torch.long, device="cpu")
            mask = self.allowed(zero, zero, own, seen).expand(len(own), part.seen)
            if not bool(mask.any(dim=1).all()):
                raise UnpackableError("some token sees no other, nor itself")
            self._masks[number] = mask
        return self._masks[number]

    def plan(self, share: int) -> AttentionPlan:
        """Return the parts as the kernels take them, for so many heads of queries to one of keys."""
        if self._plan is None:
            self._plan = _planned(self.step, self.mask, share)
        return self._plan


@contextmanager
def paged(config: Any, step: Step) -> Iterator[None]:
    """Let the model with this transformers config attend to the arena, for the call inside."""
    before = config._attn_implementation
    config._attn_implementation = _registered(before)
    _now.append(step)
    try:
        yield
    finally:
        _now.pop()
        config._attn_implementation = before


_now: list[Step] = []
"""The step of the call inside; one thread owns the models that are served."""


def _registered(name: str | None) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface

    name = name or "eager"
    if not name.startswith(NAME):
        AttentionInterface.register(NAME + name, partial(_attention, name))
        AttentionMaskInterface.register(NAME + name, _rule)
        name = NAME + name
    return name


def _rule(**arguments: Any) -> PagedRule:
    return PagedRule(_now[-1], arguments["mask_function"])


def _attention(
    name: str, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """Attend with query (1, H, N, d), key (1, G, N, d) and value (1, G, N, e) with G dividing H -> (1, N, H, e)."""
    if not isinstance(attention_mask, PagedRule):
        raise UnpackableError("its attention takes no rule from the registry")
    if any(options.get(refused) is not None for refused in REFUSED):
        raise UnpackableError("its attention adds something that is not known here")
    if name == "sdpa":  # caps nothing, and older versions of transformers run Gemma 2 with it all the same
        options["softcap"] = None
    rule, step = attention_mask, attention_mask.step
    if step.asked is not None:
        step.asked.append(Asked(module, rule, options))
    keys, values = step.arena.layer(step.calls, key, value)
    step.calls += 1
    keys[step.places] = key[0].transpose(0, 1)
    values[step.places] = value[0].transpose(0, 1)
    share = query.shape[1] // key.shape[1]
    every = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
    if block_attention.suits(query, *every, _most(step), options):
        return block_attention.attend(query, *every, rule.plan(share), options), None
    found = [
        _attend(query[:, :, part.start : part.stop], (keys, values), rule, number, options)
        for number, part in enumerate(step.parts)
    ]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _most(step: Step) -> tuple[int, int]:
    """Return how many runs a part sees at most, and how many scores it has."""
    scores = max((part.stop - part.start) * part.seen for part in step.parts)
    return max(len(runs) for runs in step.runs), scores


def _attend(
    query: Tensor, arena: tuple[Tensor, Tensor], rule: PagedRule, number: int, options: dict[str, Any]
) -> Tensor:
    """Attend with query (1, H, n, d) of one part to what it sees -> (1, H, n, e)."""
    runs = rule.step.runs[number]  # pages in one run are read where they lie
    places = slice(*runs[0]) if len(runs) == 1 else rule.step.seen_places(number, query.device)
    key, value = (x[places].transpose(0, 1)[None] for x in arena)
    heads, n = query.shape[1], query.shape[2]
    groups = heads // key.shape[1]
    # Queries that share a head of keys become one longer run of queries, so that no keys are copied.
    query = query.reshape(1, key.shape[1], groups * n, query.shape[3])
    own = rule.mask(number)
    mask = None if bool(own.all()) else own.repeat(groups, 1).to(query.device)
    if options.get("softcap") is None:
        found = F.scaled_dot_product_attention(query, key, value, mask, scale=options.get("scaling"))
    else:
        scale, cap = options.get("scaling") or query.shape[-1] ** -0.5, options["softcap"]
        scores = torch.tanh(query @ key.transpose(2, 3) * scale / cap) * cap
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        found = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return found.reshape(1, heads, n, -1)


def _planned(step: Step, mask: Callable[[int], Tensor], share: int) -> AttentionPlan:
    """Return the plan of a step: a block for each part, a segment for each run of its pages.

    A part of one token reads its keys where they lie, and has its segments behind those of the others.
    """
    blocks, tasks = list[tuple[int, ...]](), list[tuple[int, ...]]()
    turned, lying, sees = list[tuple[int, ...]](), list[tuple[int, ...]](), list[int]()
    columns = begins = buffered = widest = 0
    alone = [part.stop - part.start == 1 and share <= block_attention.STRIP for part in step.parts]
    before = sum(len(runs) for runs, one in zip(step.runs, alone, strict=True) if not one)
    masks = [mask(number) for number in range(len(step.parts))]
    for number, (part, runs) in enumerate(zip(step.parts, step.runs, strict=True)):
        first, width = len(sees), 0
        for start, stop in runs:
            sees.append(before + len(lying) if alone[number] else len(turned))
            (lying if alone[number] else turned).append((start, stop, columns + width))
            width += -(-(stop - start) // block_attention.COLUMNS) * block_attention.COLUMNS
        blocks.append((part.start, part.stop, first, len(runs), begins, part.seen))
        begins, widest = begins + masks[number].numel(), max(widest, width)
        columns += 0 if alone[number] else width
        chunk = max(1, block_attention.ROWS_OF_A_TASK // share)
        for at in range(part.start, part.stop, chunk):
            tasks.append((number, at, min(at + chunk, part.stop), buffered))
            buffered += width
    segments = [*turned, *lying]
    tables = {"segments": segments, "blocks": blocks, "sees": sees, "tasks": tasks}
    made = {name: torch.tensor(table, dtype=torch.long, device="cpu") for name, table in tables.items()}
    seen = torch.cat([own.flatten() for own in masks]).to(torch.uint8).contiguous()
    keys = max(stop for _, stop, _ in segments)
    return AttentionPlan(made | {"seen": seen}, columns, widest, buffered, step.parts[-1].stop, keys, len(lying))
