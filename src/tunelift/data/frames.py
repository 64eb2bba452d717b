"""A chat template's own words: conversations with slots in place of what is said, and where each slot's text lies.

What a template does depends on the shape of a conversation: on its roles, on blanks, on whether there is reasoning. So
the template is rendered once for each shape, with a mark in place of each text; and each conversation as it is must
then be that rendering with the texts in their places, or it is not used. What a template drops or rewrites is refused,
by row and message: nothing of a conversation is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunelift.core.errors import InputError, listed
from tunelift.core.records import Conversation
from tunelift.data.messages import REASONING, json_of

_TOOLS = 99_999
"""Marks of tools count down from here, and those of texts up from 0."""
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


def check_said(shape: Shape, text: str, row: str) -> None:
    """Refuse a rendering that leaves out what is said, but for what the assistant thought before an earlier answer."""
    last = len(shape.messages) - 1
    for number, slot in enumerate(shape.slots):
        if mark(number) not in text and (slot.message == last or not slot.thought):
            role, what = shape.messages[slot.message]["role"], "reasoning" if slot.thought else "message"
            raise InputError(
                f"Row {row}, message {slot.message + 1}: the model's chat template leaves out the {role}'s {what}: "
                f"{slot.text!r:.80}.",
                fix="Use a model whose template has a place for it, or remove it from the data.",
            )


def said_before(shape: Shape, text: str, asked: int) -> bool:
    """Whether a rendering has something of earlier messages behind what it shares with the prompt."""
    last = len(shape.messages) - 1
    return any(shape.slots[int(match[1])].message < last for match in MARK.finditer(text, asked))


def join(shape: Shape, prompt: str, text: str, row: str) -> int:
    """Return where in a rendering that differs from the prompt the answer begins, behind the words that end the prompt.

    Templates that drop the reasoning of all answers but the last differ so: once there is a new answer, the one before
    is no longer the last. Raises InputError where the place is not to be seen.
    """
    last = len(shape.messages) - 1
    marks = list(MARK.finditer(text))
    own = [match for match in marks if shape.slots[int(match[1])].message == last]
    before = [match.end() for match in marks if not own or match.start() < own[0].start()][-1:]
    words = MARK.split(prompt)[-1]
    place = before[0] + len(words) if before else 0
    if not own or not text[before[0] if before else 0 : own[0].start()].startswith(words):
        raise InputError(
            f"In row {row}, message {last + 1}: this model's chat template gives no exact mask of the assistant's "
            "tokens: the text before the answer changes when the answer is added.",
            fix="Give prompt and completion instead of messages, or use another model.",
        )
    return place


def check_calls(calls: Sequence[Mapping[str, Any]], said: str, where: str) -> None:
    """Refuse a rendering of an answer that leaves out a call, or an argument of one."""
    for call in calls:
        function = call["function"]
        wanted = (function["name"], *texts(function["arguments"]))
        if missing := [text for text in wanted if not any(spelling in said for spelling in spellings(text))]:
            raise InputError(
                f"{where}: the model's chat template leaves out the call of {function['name']!r:.60}, or a "
                f"part of it: {missing[0]!r:.60}.",
                fix="Use a model whose template writes calls of tools, or write the call into the content.",
            )


def check_beside(shape: Shape, conversation: Conversation, row: str) -> None:
    """Refuse texts in calls and tools that could not be told from the marks of a frame."""
    beside = [[message.get(key) for key in ("tool_calls", "tool_call_id", "name")] for message in shape.messages]
    if MARK.search(json_of([beside, conversation.tools, conversation.template_arguments])):
        raise InputError(f"Row {row}: tools or calls hold a text of the form {mark(0)}, by which texts are found here.")


def marked_tools(conversation: Conversation) -> Conversation:
    """Return the conversation with a mark for the name of each tool."""
    tools = [
        dict(tool) | {"function": dict(tool["function"]) | {"name": mark(_TOOLS - number)}}
        for number, tool in enumerate(conversation.tools or ())
    ]
    return replace(conversation, tools=tuple(tools))


def check_tools(conversation: Conversation, text: str, row: str) -> None:
    """Refuse a rendering, of `marked_tools`, that leaves out a tool."""
    tools = enumerate(conversation.tools or ())
    missing = [tool["function"]["name"] for number, tool in tools if mark(_TOOLS - number) not in text]
    if missing:
        raise InputError(
            f"Row {row}: the model's chat template leaves out tools: {listed(missing)}.",
            fix="Use a model whose template has a place for tools, or remove the column.",
        )


def rewritten(shape: Shape, error: Mismatch, row: str) -> InputError:
    number = shape.slots[error.slot].message if shape.slots else len(shape.messages) - 1
    role = shape.messages[number]["role"]
    return InputError(
        f"Row {row}, message {number + 1}: the model's chat template rewrites what the {role} says, or what "
        f"stands behind it: {error.found!r:.80} was found there.",
        fix="Change the message, or use a model whose template keeps it as it is.",
    )


def texts(*values: Any) -> Iterator[str]:
    """Yield the texts and numbers of nested values, keys of mappings among them."""
    for value in values:
        if isinstance(value, Mapping):
            yield from texts(*value.items())
        elif isinstance(value, list | tuple):
            yield from texts(*value)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            yield str(value)


def places(text: str, rendering: str) -> list[tuple[int, int]]:
    """Return where a text, which is not empty, stands in a rendering."""
    found = (match.span() for some in spellings(text) for match in re.finditer(re.escape(some), rendering))
    return list(found)
