"""A chat template's own words: conversations with slots in place of what is said, and where each slot's text lies.

What a template does depends on the shape of a conversation: on its roles, on blanks, on whether there is reasoning. So
the template is rendered once for each shape, with a mark in place of each text; and each conversation as it is must
then be that rendering with the texts in their places, or it is not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.data.messages import REASONING

MARK = re.compile(r"Zq(\d{5})qZ")
_THINKING = re.compile(r"(</?think>)")
"""Tags that some templates cut an answer at. What stands between them is followed by itself."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A text of message `message` (from 0), blanks at its ends aside. `thought` is what an answer is not."""

    message: int
    text: str
    thought: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Messages for a template, a mark in place of each text, and the texts. `leads` are what a message's first mark
    has before it in its content."""

    messages: list[dict[str, Any]]
    slots: list[Slot]
    leads: list[str]

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Shape:
        """Take what is said out of the messages. Calls stay: templates spell them out in ways of their own."""
        shape = cls([], [], [])
        for number, message in enumerate(messages):
            content = shape._marked(number, message)
            marked = dict(message) | {"content": content}
            if thought := message.get("reasoning_content", "").strip():
                marked |= dict.fromkeys(REASONING, shape._mark(number, thought, thought=True))
            shape.messages.append(marked)
            shape.leads.append(MARK.split(content)[0] if MARK.search(content) else "")
        return shape

    def upto(self, count: int) -> Shape:
        """Return the shape of the first `count` messages."""
        slots = [slot for slot in self.slots if slot.message < count]
        return Shape(self.messages[:count], slots, self.leads[:count])

    def _marked(self, number: int, message: Mapping[str, Any]) -> str:
        content = str(message["content"])
        pieces = _THINKING.split(content) if message["role"] == "assistant" else [content]
        answer_begins = max((n for n, piece in enumerate(pieces) if piece == "</think>"), default=-1)
        marked = ""
        for n, piece in enumerate(pieces):
            bare = piece.strip()
            if not bare or _THINKING.fullmatch(piece):
                marked += piece
                continue
            before, _, after = piece.partition(bare)
            marked += before + self._mark(number, bare, thought=n < answer_begins) + after
        return marked

    def _mark(self, number: int, text: str, *, thought: bool) -> str:
        self.slots.append(Slot(number, text, thought))
        return mark(len(self.slots) - 1)


def mark(number: int) -> str:
    """Return what stands in place of text `number`."""
    return f"Zq{number:05}qZ"


@dataclass(frozen=True, slots=True)
class Filled:
    """A frame that was found in a rendering: where its words and its slots begin there, and which characters they are.

    `starts` are (place in the frame, place in the rendering) of the template's words in turn; `spans` of each slot,
    wherever it stands.
    """

    starts: list[tuple[int, int]]
    spans: list[tuple[int, int]]

    def place(self, in_frame: int) -> int:
        """Return where a place among the template's own words lies in the rendering."""
        frame, rendering = next(both for both in reversed(self.starts) if both[0] <= in_frame)
        return rendering + in_frame - frame


class Mismatch(Exception):  # noqa: N818  it is answered, not raised to a user
    """The rendering is not the frame with the texts in their places; `slot` is the last one that was looked for."""

    def __init__(self, slot: int, found: str) -> None:
        super().__init__(found)
        self.slot, self.found = slot, found


def filled(frame: str, slots: Sequence[Slot], rendering: str) -> Filled:
    """Find the frame in a rendering: texts as they are, or as JSON writes them. Raises Mismatch where it is not."""
    pieces = MARK.split(frame)
    starts, spans, at, before = list[tuple[int, int]](), list[tuple[int, int]](), 0, 0
    last = 0
    for n, piece in enumerate(pieces):
        if n % 2 == 0:
            starts.append((before, at))
            text = piece
            before += len(piece)
        else:
            last = int(piece)
            ways = (spelling for spelling in spellings(slots[last].text) if rendering.startswith(spelling, at))
            text = next(ways, slots[last].text)
            spans.append((at, at + len(text)))
            before += len(mark(last))
        if not rendering.startswith(text, at):
            raise Mismatch(last, rendering[at : at + 60])
        at += len(text)
    if at < len(rendering):
        raise Mismatch(last, rendering[at : at + 60])
    return Filled(starts, spans)


def spellings(text: str) -> list[str]:
    """Return a text as it is, and as templates spell it that write it as a string of JSON."""
    return list(dict.fromkeys((text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])))
