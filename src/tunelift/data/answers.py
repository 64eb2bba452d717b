"""What was answered, as its reader sees it: token ids to text, for reference and prediction alike."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.data.messages import json_of


@dataclass(frozen=True, slots=True)
class Marks:
    """What a template writes around an answer. `added` stands before one without reasoning, `opens` and `closes`
    around reasoning; `opened` says that the prompt has begun it, and `calls` that tools are called."""

    added: str = ""
    opens: tuple[str, ...] = ("<think>",)
    closes: tuple[str, ...] = ("</think>",)
    opened: bool = False
    calls: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model reads before it answers in words of its own (T,), and what will stand around the answer."""

    ids: list[int]
    marks: Marks = Marks()


def answer_text(tokenizer: Any, ids: Sequence[int], marks: Marks, *, keep_thinking: bool = False) -> str:
    """Return the text of an answer without what the template adds, and without reasoning unless that is kept.

    Special tokens are left out, but for an answer that calls tools: there they are part of the call, and what is JSON
    in it is written in one way. Reasoning that never ends leaves no answer.
    """
    whole = tokenizer.decode(list(ids), skip_special_tokens=False)
    start = _start(whole, marks, keep_thinking=keep_thinking)
    if start is None:
        return ""
    if marks.calls:
        return _json_in_one_way(whole[start:])
    if start == 0:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    def begin(count: int) -> str:
        return str(tokenizer.decode(list(ids[:count]), skip_special_tokens=False))

    first = bisect_left(range(len(ids)), start, key=lambda count: len(begin(count)))  # so many tokens come before it
    return begin(first)[start:] + str(tokenizer.decode(list(ids[first:]), skip_special_tokens=True))


def _start(text: str, marks: Marks, *, keep_thinking: bool) -> int | None:
    """Return where in the text the answer begins; None where it never does."""
    if not keep_thinking:
        start = _behind_close(text, marks, 0)
        if start is None and marks.opened:
            return None
        # Within what a template takes for the answer there may be reasoning that was written into its text.
        while text.startswith(marks.opens, _first_letter(text, start or 0)):
            start = _behind_close(text, marks, start or 0)
            if start is None:
                return None
        if start is not None:
            return start
    if marks.added.strip() and text.startswith(marks.added):
        return len(marks.added)
    return 0


def _behind_close(text: str, marks: Marks, start: int) -> int | None:
    """Return the place of the first letter behind the first end of reasoning from `start` on; None where none ends."""
    ends = [(at, at + len(mark)) for mark in marks.closes if (at := text.find(mark, start)) >= 0]
    return _first_letter(text, min(ends)[1]) if ends else None


def _first_letter(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())


def _json_in_one_way(text: str) -> str:
    """Write every object and list of JSON in a text with its keys in order and no blanks of its own."""
    decoder, written, done, at = json.JSONDecoder(), "", 0, 0
    while at < len(text):
        if text[at] in "{[":
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                at += 1
                continue
            written += text[done:at] + json_of(value)
            done = at = end
        else:
            at += 1
    return written + text[done:]
