"""Conversations as a model's chat template writes them: where the prompt ends, where each answer begins and ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunelift.core.errors import InputError
from tunelift.core.records import Conversation
from tunelift.data.conversations import as_answer, is_learned
from tunelift.data.dates import dates_written, names_in, with_one_date
from tunelift.data.encoding import Encoder, Text
from tunelift.data.frames import (
    MARK,
    Mismatch,
    Shape,
    check_beside,
    check_calls,
    check_said,
    check_tools,
    filled,
    join,
    mark,
    marked_tools,
    places,
    rewritten,
    said_before,
    texts,
)
from tunelift.data.messages import json_of
from tunelift.data.shared_words import common_start
from tunelift.untrusted.templates import bounded

FRAMES_KEPT = 4096
"""Shapes of conversations whose rendering is kept: more are rendered again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Places in a rendering: where the prompt ends, where the template's own words before the answer do, and the end.

    The end is behind the token that ends the turn. What stands between the first two the model has to write as well.
    """

    asked: int
    begun: int
    end: int


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation as the template writes it, up to the end of its last answer, and its learned answers in turn."""

    text: Text
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The rendering of a shape, places of its last answer, and how the prompt for that answer ends otherwise.

    Where the template writes earlier turns otherwise once the answer is given, `text` is the prompt with what follows
    `joined`'s place of its rendering with the answer.
    """

    text: str
    answer: Answer
    otherwise: str
    joined: tuple[str, int] | None = None


_BEGUN_TAG = re.compile(r"<[|/]?\w*\Z")
_TAG = re.compile(r"(<[^<>]+>|\[[^\[\]]+\])\s*\Z")


class Chat:
    """A tokenizer's chat template, applied to the conversations of one data set."""

    def __init__(self, tokenizer: Any, encoder: Encoder) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.notes: dict[str, None] = {}
        """What the template does that a user should know, each once."""
        self._frames: dict[str, _Frame] = {}
        self._arguments_as_text = False

    def parts(self, conversation: Conversation, row: str) -> list[Conversation]:
        """Return what is learned of a conversation: itself with all its answers, or one for each answer, or the last.

        All of one rendering where the template keeps what went before as it was; else, unless `turns` says otherwise,
        each answer behind what the model sees at that moment.
        """
        messages = conversation.messages
        if messages[0]["role"] == "assistant":
            self.notes["answers that open a conversation, with nothing before them, are not learned"] = None
        if not all(as_answer(message).strip() for message in messages[:-1] if message["role"] == "assistant"):
            self.notes["answers that say nothing are not learned"] = None
        learned = [number for number, message in enumerate(messages) if is_learned(message)]
        turns = conversation.turns or ("all" if self._is_exact(conversation, learned, row) else "each")
        if turns == "all" and len(learned) > 1:
            return [replace(conversation, turns="all")]
        upto = [messages[: number + 1] for number in (learned if turns == "each" else learned[-1:])]
        return [replace(conversation, messages=some, turns="last") for some in upto]

    def written(self, conversation: Conversation, row: str) -> Written:
        """Render a conversation: with all learned answers where `turns` is "all", else with the last one.

        Raises InputError, naming row and message, where the template leaves out or rewrites what is said, and where it
        writes an answer otherwise once messages follow it.
        """
        messages, shape = conversation.messages, Shape.of(conversation.messages)
        frame = self._frame(shape, conversation, row)
        answers = [frame.answer]
        if conversation.turns == "all":
            inner = [number for number, message in enumerate(messages[:-1]) if is_learned(message)]
            answers = [self._within(frame, shape, number, conversation, row) for number in inner] + answers
        rendering = self._render(messages, conversation, row, prompt=False)
        try:
            if frame.joined:
                behind = filled(frame.joined[0], shape.slots, rendering).place(frame.joined[1])
                rendering = self._render(messages[:-1], conversation, row, prompt=True) + rendering[behind:]
            found = filled(frame.text, shape.slots, rendering)
        except Mismatch as error:
            raise rewritten(shape, error, row) from error
        learned = [Answer(*(found.place(at) for at in (a.asked, a.begun, a.end))) for a in answers]
        said = texts([message.get("tool_calls") for message in messages], conversation.tools)
        beside = [span for one in said if self.encoder.special.search(one) for span in places(one, rendering)]
        text = Text(rendering, self.encoder.spelt(rendering, [*found.spans, *beside]))
        return Written(text.cut(0, learned[-1].end), learned)

    def asked(self, conversation: Conversation, row: str) -> Written:
        """Render what comes before an answer that is not known yet: the messages end with a question."""
        answered = (*conversation.messages, {"role": "assistant", "content": "x"})
        return self.written(replace(conversation, messages=answered, turns="last"), row)

    def ends_turn(self, text: str) -> bool:
        """Whether `text` ends with a token of the tokenizer's own, such as <|im_end|>."""
        return any(match.end() == len(text) for match in self.encoder.special.finditer(text, max(0, len(text) - 200)))

    def between_turns(self, conversation: Conversation, row: str) -> str:
        """Return what the template writes between an answer and a question that follows it; "" where it takes none."""
        turns = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "x"})
        shape = Shape.of([*conversation.messages[:-1], turns[1], turns[0]])
        try:
            text = self._render(shape.messages, conversation, row, prompt=False)
        except InputError:
            return ""
        before, after = (text.find(mark(len(shape.slots) - n)) for n in (2, 1))
        return text[before + len(mark(0)) : after] if 0 <= before < after else ""

    @cached_property
    def thinking(self) -> tuple[str, str]:
        """What the template writes before and behind reasoning; <think> and </think> where it writes none."""
        plain = {"role": "assistant", "content": "x"}
        shape = Shape.of([{"role": "user", "content": "x"}, plain | {"reasoning_content": "x"}])
        try:
            text = self._render(shape.messages, Conversation(()), "1", prompt=False)
            prompt = self._render(shape.messages[:1], Conversation(()), "1", prompt=True)
        except InputError:
            return "<think>", "</think>"
        content, thought = text.find(mark(1)), text.find(mark(2))
        if not 0 <= thought < content:
            return "<think>", "</think>"
        shared = len(common_start([prompt, text[:thought]]))
        tag = _TAG.search(text, 0, thought)  # a prompt may have begun the reasoning already
        opened = text[shared:thought].strip() or (tag[1] if tag else "<think>")
        return opened, text[thought + len(mark(2)) : content].strip() or "</think>"

    def _is_exact(self, conversation: Conversation, learned: Sequence[int], row: str) -> bool:
        """Whether every learned answer but the last stands in the whole rendering as it stood when it was the last."""
        if len(learned) < 2:
            return True
        shape = Shape.of(conversation.messages)
        whole = self._frame(shape, conversation, row).text
        frames = (self._frame(shape.upto(number + 1), conversation, row) for number in learned[:-1])
        return all(whole.startswith(frame.text[: frame.answer.end]) for frame in frames)

    def _within(self, whole: _Frame, shape: Shape, number: int, conversation: Conversation, row: str) -> Answer:
        frame = self._frame(shape.upto(number + 1), conversation, row)
        if not whole.text.startswith(frame.text[: frame.answer.end]):
            raise InputError(
                f"In row {row}, message {number + 1}: this model's chat template gives no exact mask of the "
                "assistant's tokens: the answer is written differently once messages follow it.",
                fix="Set data.turns to each (one row for each answer, as the model sees it at that moment) or to last.",
            )
        return frame.answer

    def _frame(self, shape: Shape, conversation: Conversation, row: str) -> _Frame:
        """Return the rendering of a shape that ends with an answer; InputError where it leaves out what is said."""
        key = json_of([shape.messages, shape.leads, conversation.tools, conversation.template_arguments])
        if key not in self._frames:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            self._frames[key] = self._framed(shape, conversation, row)
        if otherwise := self._frames[key].otherwise:
            self.notes[
                f"the chat template ends a prompt with {otherwise!r}, which it does not write before an answer that is "
                "given; answers are learned and asked for without it"
            ] = None
        return self._frames[key]

    def _framed(self, shape: Shape, conversation: Conversation, row: str) -> _Frame:
        last = len(shape.messages) - 1
        if not last:
            raise InputError(
                f"Row {row}: nothing stands before the assistant's answer.",
                fix="Put a message of the user's or the system's before it, or give prompt and completion.",
            )
        self._check_arguments(conversation, row)
        text = self._render(shape.messages, conversation, row, prompt=False)
        check_beside(shape, conversation, row)
        if conversation.tools:
            marked = marked_tools(conversation)
            check_tools(conversation, self._render(shape.messages, marked, row, prompt=False), row)
        prompt = self._render(shape.messages[:-1], conversation, row, prompt=True)
        asked, joined = self._shared(prompt, text), None
        if said_before(shape, text, asked):
            place = join(shape, prompt, text, row)
            text, asked, joined = prompt + text[place:], len(prompt), (text, place)
        check_said(shape, text, row)
        places = [match.span() for match in MARK.finditer(text, asked)]
        begun = _begun(text, asked, places[0][0], shape.leads[last]) if places else asked
        calls = shape.messages[last].get("tool_calls", ())
        end = self._end(text, places[-1][1] if places else asked, bool(calls))
        check_calls(calls, text[asked:end], f"Row {row}, message {last + 1}")
        return _Frame(text, Answer(asked, begun, end), prompt[asked:], joined)

    def _shared(self, prompt: str, text: str) -> int:
        """Return the length of what prompt and whole conversation begin with, no token of either cut in two."""
        shared = len(common_start([prompt, text]))
        if shared < len(prompt):
            cut = [m.start() for some in (prompt, text) for m in self.encoder.added.finditer(some)
                   if m.start() < shared < m.end()]  # fmt: skip
            begun = _BEGUN_TAG.search(text, 0, shared)
            shared = min([shared, *cut, *([begun.start()] if begun else [])])
        return shared

    def _end(self, text: str, after: int, calls: bool) -> int:
        """Return where an answer ends, behind the token that ends its turn, or with the text where no token does."""
        found = list(self.encoder.special.finditer(text, after))
        if not calls:
            return found[0].end() if found else len(text)
        run, edge = list[re.Match[str]](), len(text)
        while found and not text[found[-1].end() : edge].strip():
            run.insert(0, found.pop())
            edge = run[0].start()
        ends = [match.end() for match in run if match[0] in (self.tokenizer.eos_token, self._turn_end)]
        return (ends or [match.end() for match in run[-1:]] or [len(text)])[0]

    @cached_property
    def _turn_end(self) -> str | None:
        """The token that ends an answer of text."""
        shape = Shape.of([{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}])
        try:
            text = self._render(shape.messages, Conversation(()), "1", prompt=False)
        except InputError:
            return None
        found = self.encoder.special.search(text, max(0, text.find(mark(1))))
        return found[0] if found else None

    def _check_arguments(self, conversation: Conversation, row: str) -> None:
        known = frozenset[str]()
        if conversation.template_arguments:
            with suppress(ValueError):  # there is none for tools: refused where it is rendered, with the reason
                known = names_in(str(self.tokenizer.get_chat_template(None, conversation.tools)))
        unknown = [name for name in conversation.template_arguments if name not in known]
        if unknown:
            raise InputError(
                f"Row {row}: the model's chat template has no argument {unknown[0]!r}.",
                fix="Remove it from the row's template arguments, or use a model whose template takes it.",
            )

    def _render(self, messages: Sequence[Mapping[str, Any]], given: Conversation, row: str, *, prompt: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                f"Row {row} holds chat messages, and this model's tokenizer has no chat template.",
                fix="Give data.prompt and data.completion templates, or use an instruction-tuned model.",
            )

        def rendered() -> str:
            plain = [_for_template(message, self._arguments_as_text) for message in messages]
            tools = list(given.tools) if given.tools else None
            template, forms = with_one_date(self.tokenizer.get_chat_template(None, tools))
            found = self.tokenizer.apply_chat_template(
                plain, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=prompt,
                **dates_written(forms), **given.template_arguments,
            )  # fmt: skip
            return str(found)

        try:
            return _with_reason(rendered, row)
        except InputError:
            if self._arguments_as_text or not any("tool_calls" in message for message in messages):
                raise
            self._arguments_as_text = True  # some templates put a call together from texts
            return _with_reason(rendered, row)


def _for_template(message: Mapping[str, Any], arguments_as_text: bool) -> dict[str, Any]:
    """Return a message as templates know it: reasoning by each of its names, no word of what is learned."""
    plain = {key: value for key, value in message.items() if key != "train"}
    if thought := plain.get("reasoning_content"):
        plain |= {"reasoning": thought, "thinking": thought}
    if arguments_as_text and "tool_calls" in plain:
        plain["tool_calls"] = [
            call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
            for call in plain["tool_calls"]
        ]
    return plain


def _with_reason(render: Callable[[], str], row: str) -> str:
    """Run a template (in transformers' sandbox) and name the row where the template refuses it."""
    from jinja2 import TemplateError

    try:
        with bounded(f"Row {row}: the model's chat template"):
            return render()
    except (TemplateError, TypeError, KeyError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"Row {row}: the model's chat template refuses the messages: {str(error).rstrip('.')}.",
            fix="Many templates want user and assistant in turn, and some have no system role. Change the messages.",
        ) from error


def _begun(text: str, asked: int, first: int, lead: str) -> int:
    """Return where an answer begins of whose content `lead` comes before the text at `first`, blanks before it its own.

    Tokenizers join a blank to the word that follows.
    """
    before = text[asked:first]
    own = before.removesuffix(lead) if before.endswith(lead) else before[: before.rfind(lead.strip())]
    return asked + len(own.rstrip(" "))
