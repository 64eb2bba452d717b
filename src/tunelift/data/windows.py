"""A question and a passage as rows of tokens: one, or for a long passage several windows that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Pair, Span
from tunelift.data.encoding import spelt_as_text
from tunelift.data.pairs import between_texts

OVERLAP = 3
"""A window shares a third of its length with the one before it: 128 tokens of 384, as is usual."""


@dataclass(frozen=True, slots=True)
class Window:
    """A question and a part of its passage.

    `ids` (T,) are the tokens, `segments` (T,) their types as the tokenizer gives them, None where it gives one for all.
    `places` (T,) say where in the passage a token lies, as (start, end) in characters; None for tokens that are not
    of the passage. The window covers the passage's characters from `begin` to `end`. `none` is the place of the token
    that stands for "no answer here" (CLS, or BOS), None where the tokenizer puts none.
    """

    ids: list[int]
    segments: list[int] | None
    places: list[tuple[int, int] | None]
    begin: int
    end: int
    none: int | None

    def tokens_of(self, span: Span) -> tuple[int, int] | None:
        """Return the first and the last token of a span, None where the window does not hold it whole."""
        begin = span.start + len(span.text) - len(span.text.lstrip())
        end = begin + len(span.text.strip())
        if begin < self.begin or end > self.end or begin >= end:
            return None
        found = [at for at, place in enumerate(self.places) if place and place[0] < end and place[1] > begin]
        return (found[0], found[-1]) if found else None


def overlap(max_length: int) -> int:
    """Return how many tokens neighbouring windows share."""
    return max_length // OVERLAP


def windows(tokenizer: Any, pairs: Sequence[Pair], max_length: int) -> list[list[Window]]:
    """Return the windows of each question (first) with its passage (second), of at most `max_length` tokens.

    The tokenizer itself cuts them. A question so long that no room is left to go on through the passage has none.
    Raises InputError for a tokenizer that does not say where in a text its tokens lie.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens lie, so answers have none of their "
            "own.",
            fix="Take a model with a tokenizer.json.",
        )
    questions = [pair.first.strip() for pair in pairs]
    how = spelt_as_text(tokenizer, [*questions, *dict.fromkeys(pair.second for pair in pairs)])
    alone = tokenizer(questions, add_special_tokens=False, verbose=False, **how)["input_ids"] if questions else []
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - overlap(max_length)
    kept = [i for i, ids in enumerate(alone) if len(ids) < room]
    found: list[list[Window]] = [[] for _ in pairs]
    if not kept:
        return found
    between = between_texts(tokenizer)
    cut = tokenizer(
        [questions[i] for i in kept],
        [between + pairs[i].second for i in kept],
        truncation="only_second",
        max_length=max_length,
        stride=overlap(max_length),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
        **how,
    )
    for number, owner in enumerate(cut["overflow_to_sample_mapping"]):
        found[kept[owner]].append(_window(tokenizer, cut, number, len(between)))
    for i in kept:
        found[i] = _covering(found[i], len(pairs[i].second))
    return found


def _window(tokenizer: Any, cut: Any, number: int, moved: int) -> Window:
    """Return one of the windows that were cut; a passage begins behind so many characters that were put before it."""
    ids, texts = list(cut["input_ids"][number]), cut.sequence_ids(number)
    types = cut["token_type_ids"][number] if "token_type_ids" in cut else None
    places = [
        (max(start - moved, 0), end - moved) if text == 1 and end > max(start, moved) else None
        for text, (start, end) in zip(texts, cut["offset_mapping"][number], strict=True)
    ]
    stands = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
    none = next((at for at, token in enumerate(ids) if texts[at] is None and token in stands), None)
    there = [place for place in places if place]
    begin, end = (there[0][0], there[-1][1]) if there else (0, 0)
    segments = list(types) if types and len(set(types)) > 1 else None
    return Window(ids, segments, places, begin, end, none)


def _covering(some: list[Window], length: int) -> list[Window]:
    """Let the first and the last window cover what no token is of, at the passage's ends."""
    last = len(some) - 1
    return [
        Window(w.ids, w.segments, w.places, 0 if i == 0 else w.begin, length if i == last else w.end, w.none)
        for i, w in enumerate(some)
    ]
