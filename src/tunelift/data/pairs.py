"""Two texts as one row of tokens, as the tokenizer encodes a pair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Pair
from tunelift.data.encoding import spelt_as_text

BETWEEN = "\n"
"""Stands before the second text where the tokenizer itself puts nothing between the two."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair's token ids (T,), and its length before it was cut.

    `segments` are the token types (T,) that the tokenizer gives, None where it gives none or one for all. Where they
    were asked for, `texts` (T,) says which text each token is of, 0 or 1, None for special tokens, and `offsets` (T,)
    where in that text it lies, as (start, end) in characters.
    """

    ids: list[int]
    full_length: int
    segments: list[int] | None = None
    texts: list[int | None] | None = None
    offsets: list[tuple[int, int]] | None = None


def encode_pair(tokenizer: Any, pair: Pair, max_length: int, *, offsets: bool = False) -> EncodedPair:
    """Encode a pair as the tokenizer does, cut to `max_length`: always a token of the text that is longer then.

    A tokenizer that puts no token of its own between two texts would write the one into the other: there a line break
    is put before the second. Raises InputError where `max_length` has no room for a token of each, for a tokenizer that
    leaves special tokens out of pairs, and for offsets of one that does not tell them.
    """
    between = between_texts(tokenizer)
    texts = pair.first, between + pair.second
    if offsets and not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens lie.",
            fix="Take a model with a tokenizer.json.",
        )
    how = spelt_as_text(tokenizer, texts) | ({"return_offsets_mapping": True} if offsets else {})
    found = tokenizer(*texts, verbose=False, **how)  # how long a row is, is counted and reported by us
    full_length = len(found["input_ids"])
    if full_length > max_length:
        if max_length < (least := tokenizer.num_special_tokens_to_add(pair=True) + 2):
            raise InputError(
                f"{max_length} tokens have no room for a pair: special tokens and one of each text are {least}.",
                fix="Set train.max_length higher.",
            )
        found = tokenizer(*texts, truncation="longest_first", max_length=max_length, verbose=False, **how)
    types = found.get("token_type_ids")
    encoded = EncodedPair(list(found["input_ids"]), full_length, list(types) if types and len(set(types)) > 1 else None)
    if not offsets:
        return encoded
    owners, places = list(found.sequence_ids(0)), found["offset_mapping"]
    before = [len(between) * (owner or 0) for owner in owners]
    lie = [(max(start - by, 0), max(end - by, 0)) for by, (start, end) in zip(before, places, strict=True)]
    return replace(encoded, texts=owners, offsets=lie)


def between_texts(tokenizer: Any) -> str:
    """Return what is to stand between two texts besides the tokenizer's own tokens."""
    pair, single = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (True, False))
    if pair < single:
        raise InputError(
            f"This tokenizer puts {single} special tokens around a text and {pair} around two: it does not know pairs.",
            fix='Write both into one text: --text "{premise}\\n{hypothesis}", by the names of your columns.',
        )
    return "" if pair > single else BETWEEN
