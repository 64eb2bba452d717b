"""Texts to token ids, in which a special token that somebody's text merely spells is text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tunelift.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Text:
    """A text to encode; `plain` are the places (start, end) of special tokens in it that are to be text."""

    text: str
    plain: tuple[tuple[int, int], ...] = ()

    def cut(self, start: int, end: int) -> Text:
        """Return a part of it."""
        plain = ((max(a, start) - start, min(b, end) - start) for a, b in self.plain if a < end and b > start)
        return Text(self.text[start:end], tuple(plain))


@dataclass(frozen=True, slots=True)
class Added:
    """The tokens that were added to a tokenizer's vocabulary: ids and names of the special ones.

    `special` matches those, such as <|im_end|>, and `every` any other too, such as <think> for some models.
    """

    ids: frozenset[int]
    names: frozenset[str]
    special: re.Pattern[str]
    every: re.Pattern[str]

    @classmethod
    def to(cls, tokenizer: Any) -> Added:
        """Return a tokenizer's, put together once (20 ms for six thousand tokens) until it gets others."""
        tokens, named = tokenizer.added_tokens_decoder, tokenizer.all_special_tokens
        if tokenizer not in _added or _added[tokenizer][:2] != (tokens, named):
            special = {number: str(token) for number, token in tokens.items() if token.special}
            known = {*named, *special.values()} - {""}
            every = known | {str(token) for token in tokens.values()} - {""}
            ids = frozenset({*tokenizer.all_special_ids, *special})
            found = cls(ids, frozenset(special.values()), _any_of(known), _any_of(every))
            _added[tokenizer] = (tokens, list(named), found)
        return _added[tokenizer][2]


_added: WeakKeyDictionary[Any, tuple[Any, list[str], Added]] = WeakKeyDictionary()
"""By tokenizer: what its tokens were, and what was made of them."""


class Encoder:
    """A transformers tokenizer, by many texts at once, without the special tokens that it puts around a text."""

    def __init__(self, tokenizer: Any, added: Added | None = None) -> None:
        """`added` are the tokenizer's own, where they are at hand."""
        added = added or Added.to(tokenizer)
        self.tokenizer = tokenizer
        self.special, self.added = added.special, added.every

    def encode(self, texts: Sequence[Text]) -> list[list[int]]:
        """Return the ids of each text. Raises InputError where the tokenizer cannot write a special token as text."""
        stock = iter(self._stock([text.text for text in texts if not text.plain]))
        return [self._in_pieces(text) if text.plain else next(stock) for text in texts]

    def spelt(self, text: str, spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        """Return the places of special tokens within these spans of a text."""
        found = [match.span() for start, end in spans for match in self.special.finditer(text, start, end)]
        return tuple(sorted(set(found)))

    def _stock(self, texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
        # verbose=False: long texts are counted and reported by us, not warned about by the tokenizer.
        how = {"split_special_tokens": True} if plain else {}
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False, **how) if texts else {}
        return found["input_ids"] if texts else []

    def _in_pieces(self, text: Text) -> list[int]:
        ids, done = list[int](), 0
        for start, end in text.plain:
            ids += self._piece(text.text[done:start], first=done == 0)
            ids += self._as_text(text.text[start:end])
            done = end
        return ids + self._piece(text.text[done:], first=done == 0)

    def _as_text(self, token: str) -> list[int]:
        ids = self._piece(token, plain=True)
        if set(self._stock([token])[0]) & set(ids):
            raise cannot_write(token)
        return ids

    def _piece(self, text: str, *, first: bool = False, plain: bool = False) -> list[int]:
        """Encode a piece from within a text: behind a line break, which keeps off the blank that may open a text."""
        if not text:
            return []
        if first:
            return self._stock([text])[0]
        (before,), (both,) = self._stock(["\n"]), self._stock(["\n" + text], plain=plain)
        return both[len(before) :] if both[: len(before)] == before else self._stock([text], plain=plain)[0]


def spelt_as_text(tokenizer: Any, texts: Iterable[str]) -> dict[str, Any]:
    """Return what a tokenizer is to be called with besides, so that special tokens that texts spell are text.

    Nothing where they spell none. Raises InputError for one that the tokenizer can write as its special token only.
    """
    names = dict.fromkeys(match[0] for text in texts for match in Added.to(tokenizer).special.finditer(text))
    how = {"split_special_tokens": True}
    for name in names:
        ids = tokenizer(name, add_special_tokens=False, verbose=False, **how)["input_ids"]
        if name != tokenizer.unk_token and tokenizer.convert_tokens_to_ids(name) in ids:
            raise cannot_write(name)
    return how if names else {}


def cannot_write(token: str) -> InputError:
    """Return the error for a special token in a text that the tokenizer cannot write as text."""
    return InputError(
        f"A text holds {token!r}, which this tokenizer cannot write but as its special token.",
        fix="Write it otherwise in the data, or remove it.",
    )


def _any_of(names: set[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
