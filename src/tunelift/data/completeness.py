"""Nothing of a conversation is left out: what a chat template drops or rewrites is refused, by row and message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunelift.core.errors import InputError, listed
from tunelift.core.records import Conversation
from tunelift.data.frames import MARK, Mismatch, Shape, mark, spellings
from tunelift.data.messages import json_of


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


_TOOLS = 99_999
"""Marks of tools count down from here, and those of texts up from 0."""


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
