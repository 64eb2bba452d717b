"""Which settings fit into a memory: the largest of each, and the cheapest changes where the planned ones do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core.machine import MemoryLimit
from tunelift.planning.memory import Facts, Settings, at_once, by_stage, changed, lengths, parts, peak
from tunelift.training.optimisers import has_bitsandbytes

SMALLEST = 64
"""Tokens of a micro-batch, or of a row, below which nothing is proposed."""

LARGEST_RANK, LARGEST_TOKENS = 4096, 2**20


@dataclass(frozen=True, slots=True)
class Change:
    """Settings that take less memory: the config's keys, by how many bytes less stages are over, and its price."""

    keys: Mapping[str, Any]
    saves: int
    price: str


def bytes_with(facts: Facts, settings: Settings) -> int:
    """Return the planned peak with these settings."""
    return peak(parts(facts, settings))


def largest(facts: Facts, limit: int) -> dict[str, int | None]:
    """Return the largest micro-batch, length and rank that fit, each with the other settings as planned.

    None is said of one of which none fits, or which the adapter has not. A micro-batch larger than a whole step, and a
    length beyond the longest row, change nothing: there it is the number from which on that is so.
    """
    own = facts.planned

    def fits(**changes: Any) -> bool:
        return bytes_with(facts, changed(own, **changes)) <= limit

    step = at_once(facts, changed(own, micro_batch_tokens=LARGEST_TOKENS))
    longest = max(facts.rows.train, default=1)
    micro = _highest(lambda n: fits(micro_batch_tokens=n), max(1, step))
    length = _highest(lambda n: fits(max_length=n), longest)
    rank = _highest(lambda n: fits(rank=n), LARGEST_RANK) if own.rank else None
    return {"train.micro_batch_tokens": micro, "train.max_length": length, "adapter.r": rank}


def _highest(fits: Callable[[int], bool], most: int) -> int | None:
    """Return the highest number from 1 to `most` that fits, where all below one that fits do; None where none does."""
    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low or None


def changes(facts: Facts, limit: int, *, narrow: bool) -> list[Change]:
    """Return the cheapest changes that fit together, or all there are where even these do not.

    `narrow` says that the base may be held in few bits. Each is taken only if it saves anything on top of those before.
    """
    settings, taken = facts.planned, list[Change]()
    for keys, fields, price in _proposed(facts, narrow=narrow):
        before = _over(facts, settings, limit)
        if before == 0:
            break
        after = changed(settings, **fields)
        saves = before - _over(facts, after, limit)
        if saves > 0:
            taken.append(Change(keys, saves, price))
            settings = after
    return taken


def _over(facts: Facts, settings: Settings, limit: int) -> int:
    """Return by how much the stages are over the limit, added up: one that is under it does not hide another."""
    return sum(max(0, count - limit) for count in by_stage(parts(facts, settings)).values())


Proposed = tuple[dict[str, Any], dict[str, Any], str]


def _proposed(facts: Facts, *, narrow: bool) -> Iterator[Proposed]:
    """Yield changes, the cheapest first: keys of the config, what they are in `Settings`, and what they cost."""
    own, rows = facts.planned, lengths(facts, facts.planned)
    longest = max(rows, default=0)
    tokens, seen = min(own.micro_batch_tokens, at_once(facts, own)), set[int]()
    while tokens > max(SMALLEST, longest):
        tokens = max(tokens // 2, longest, SMALLEST)
        if tokens not in seen:
            yield {"train.micro_batch_tokens": tokens}, {"micro_batch_tokens": tokens}, "nothing but some speed"
        seen.add(tokens)
    if own.rows_at_once > 1 and facts.rows.prompts:
        yield {"evaluate.batch_size": 1}, {"rows_at_once": 1}, "slower answers"
    if not own.again:
        yield {"train.gradient_checkpointing": True}, {"again": True}, "each layer is computed once more"
    if narrow and own.quantization == "none":
        for kind in ("int8", "int4"):
            yield {"model.quantization": kind}, {"quantization": kind}, "what the run then measures"
    if own.optimizer == "adamw" and facts.adapter.whole:
        for name in ("adamw-8bit", "adafactor") if has_bitsandbytes() else ("adafactor",):
            yield {"train.optimizer": name}, {"optimizer": name}, "other steps"
    for share in (0.99, 0.95, 0.9, 0.75, 0.5):
        tokens = _cut_at(rows, share)
        if SMALLEST <= tokens < longest:
            cut = sum(row > tokens for row in rows)
            yield {"train.max_length": tokens}, {"max_length": tokens}, f"{cut} of {len(rows)} training rows are cut"
    if own.rank and own.rank > 4:
        yield {"adapter.r": 4}, {"rank": 4}, "a smaller adapter"


def _cut_at(rows: Sequence[int], share: float) -> int:
    """Return the length that so large a share of the rows has at most."""
    return sorted(rows)[min(len(rows) - 1, int(share * len(rows)))] if rows else 0


def refused_by(facts: Facts, limits: Sequence[MemoryLimit]) -> MemoryLimit | None:
    """Return a limit that this run cannot keep whatever happens, None where there is none.

    Counted are the parts that are certain, swap beside memory. Where memory that runs out is told, a training halves
    its micro-batches down to single rows, so that these are what is counted.
    """
    own, longest = facts.planned, max(lengths(facts, facts.planned), default=1)
    single = changed(own, micro_batch_tokens=1, max_length=longest)
    for limit in limits:
        certain = peak(parts(facts, own if limit.kills else single), certain=True)
        if limit.hard is not None and certain > limit.hard:
            return limit
    return None
