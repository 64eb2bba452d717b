"""Two outputs side by side: which words only one of them has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

Segments = list[tuple[str, bool]]
"""Pieces of a text in their order, each with whether only this side has it; joined they are the text."""

WORD = re.compile(r"(?:\w+|[^\w\s]+)\s*")
UNLIKE = 0.1
"""Below this share of common words, marks would cover both texts and show nothing."""

SHORT_WORDS = 6
"""Answers this short are marked even where they have nothing in common."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Both texts in segments; `unlike` where they have so little in common that nothing is marked."""

    base: Segments
    tuned: Segments
    unlike: bool = False


def difference(base: str, tuned: str) -> Difference:
    """Compare two texts word by word, blanks aside."""
    one, other = _words(base), _words(tuned)
    blocks = _common_blocks([word.strip() for word in one], [word.strip() for word in other])
    shared = sum(size for _, _, size in blocks)
    longest = max(len(one), len(other))
    if longest > SHORT_WORDS and shared < UNLIKE * longest:
        return Difference([(base, False)], [(tuned, False)], unlike=True)
    return Difference(
        _segments(one, [(start, size) for start, _, size in blocks]),
        _segments(other, [(start, size) for _, start, size in blocks]),
    )


def excerpt(segments: Segments, context: int = 60) -> Segments:
    """Shorten the stretches that both sides share to about `context` characters at each end of a marked piece."""
    if not any(marked for _, marked in segments):
        return [(_clipped(text, 160, first=False, last=False), False) for text, _ in segments]
    last = len(segments) - 1
    return [
        (text if marked else _clipped(text, context, first=index == 0, last=index == last), marked)
        for index, (text, marked) in enumerate(segments)
    ]


def _words(text: str) -> list[str]:
    """Split into words, each with the blanks after it; blanks at the very beginning go with the first word."""
    words = WORD.findall(text)
    lead = text[: len(text) - sum(map(len, words))]
    return [lead + words[0], *words[1:]] if words else ([text] if text else [])


def _common_blocks(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return (start in one, start in other, words) of the common stretches; shared ends are matched first, cheaply."""
    shortest = min(len(one), len(other))
    head = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    rest = shortest - head
    tail = next((i for i in range(rest) if one[-1 - i] != other[-1 - i]), rest)
    middle = SequenceMatcher(None, one[head : len(one) - tail], other[head : len(other) - tail])
    inner = [(head + block.a, head + block.b, block.size) for block in middle.get_matching_blocks() if block.size]
    ends = [(0, 0, head)] if head else []
    return [*ends, *inner, *([(len(one) - tail, len(other) - tail, tail)] if tail else [])]


def _segments(words: Sequence[str], shared: Sequence[tuple[int, int]]) -> Segments:
    segments: Segments = []
    at = 0
    for start, size in [*shared, (len(words), 0)]:
        _add(segments, "".join(words[at:start]), marked=True)
        _add(segments, "".join(words[start : start + size]), marked=False)
        at = start + size
    return segments


def _add(segments: Segments, text: str, *, marked: bool) -> None:
    """Append a piece; blanks at the end of a marked one stay outside the mark, and neighbours are joined."""
    end = len(text.rstrip()) if marked else len(text)
    for piece, kind in ((text[:end], marked), (text[end:], False)):
        if piece and segments and segments[-1][1] == kind:
            segments[-1] = (segments[-1][0] + piece, kind)
        elif piece:
            segments.append((piece, kind))


def _clipped(text: str, context: int, *, first: bool, last: bool) -> str:
    """Cut the middle out, or the outer end of the first and the last piece."""
    if len(text) <= 2 * context:
        return text
    head, tail = text[:context].rstrip(), text[-context:].lstrip()
    return f"… {tail}" if first else f"{head} …" if last else f"{head} … {tail}"
