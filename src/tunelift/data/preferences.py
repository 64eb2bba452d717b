"""Rows that say which answer people liked: a chosen and a rejected one, or one answer and a judgement of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Conversation, Example, Liked, Rejected
from tunelift.data.columns import ANSWERS, Reading, check_columns
from tunelift.data.conversations import as_answer, as_prompt, conversation_of
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import BESIDE, Instructions, Layout, Said, Templates, Texts
from tunelift.data.messages import kind
from tunelift.data.refused_columns import TRUTHS, refuse_tagged_tokens
from tunelift.data.template import Template, as_text

PAIRS = (("chosen", "rejected"), ("chosen_response", "rejected_response"))
"""What people call the two answers."""

ASKED = ("conversations", "messages", "prompt", "instruction", "question")
"""What people call what the answers answer; without any of these each answer holds it, and the two begin alike."""

VERDICTS = ("label", "kto_tag")
"""What people call the judgement of one answer."""

TURNS = ("\n\nAssistant:", "\nAssistant:", "### Response:", "### Assistant:")
"""What stands before an answer in texts that hold a whole exchange."""

NOTHING: tuple[Any, ...] = (None, "", "[]", "{}", [], {})
"""Cells that say nothing."""

EQUAL = "both answers are the same"
EMPTY = "an empty answer"
EARLIER = "the two differ before their last answers"
UNANSWERED = "the last message is no answer of the assistant's"


@dataclass(frozen=True, slots=True)
class PairOfTexts:
    """A prompt and two answers from templates; without a prompt it is what the two answers begin with."""

    prompt: Template | None
    chosen: Template
    rejected: Template

    @property
    def columns(self) -> Sequence[str]:
        """The columns that the templates name."""
        templates = [self.chosen, self.rejected, *([self.prompt] if self.prompt else [])]
        return [name for template in templates for name in template.columns]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says."""
        answers = [template.fill(row, where) for template in (self.chosen, self.rejected)]
        if self.prompt is None:
            return _paired(*_split(*answers))
        said = Texts(self.prompt)(row, where)
        return said if isinstance(said, str) else _paired(said.prompt, *answers)


@dataclass(frozen=True, slots=True)
class PairOfAnswers:
    """Two answers under usual names, as text or as messages, and what they answer: its column, if there is any."""

    names: tuple[str, str]
    asked: str | None
    beside: Sequence[str]

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        more = ("input",) if self.asked == "instruction" else ()
        return [*self.names, *([self.asked] if self.asked else []), *more, *self.beside]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError for messages that cannot be used."""
        asked = row.get(self.asked) if self.asked else None
        answers = [row.get(name) for name in self.names]
        in_messages = self.asked in ("conversations", "messages")
        if in_messages:  # as a csv file or a database keeps them
            asked, *answers = (_unpacked(value, where) for value in (asked, *answers))
        if any(value in (None, "", [], {}) for value in answers):
            return EMPTY
        if in_messages or not all(isinstance(value, str) for value in (asked or "", *answers)):
            return self._talked(row, asked, answers, where)
        self._refuse_unread(row, where)
        if self.asked != "instruction":
            template = None if self.asked is None else _column(self.asked)
            return PairOfTexts(template, *map(_column, self.names))(row, where)
        said = Instructions()({**row, "output": "x"}, where)
        texts = (as_text(value, where) for value in answers)
        return said if isinstance(said, str) else _paired(said.prompt, *texts)

    def _refuse_unread(self, row: TableRow, where: str) -> None:
        """Raise InputError for what belongs to a conversation and stands beside texts, where it would be lost."""
        read = ("system", "history") if self.asked == "instruction" else ()
        lost = [name for name in self.beside if name not in read and row.get(name) not in NOTHING]
        if lost:
            asked = f"{{{self.asked}}}" if self.asked else "{question}"
            better, worse = self.names
            raise InputError(
                f"{where}: {listed(lost)} would be lost: it is part of a conversation, and the answers are texts.",
                fix=f'Name a text in the prompt: --prompt "{{{lost[0]}}}\\n\\n{asked}" --completion "{{{better}}}" '
                f'--rejected "{{{worse}}}". Or write the answers as messages.',
            )

    def _talked(self, row: TableRow, asked: Any, answers: Sequence[Any], where: str) -> Said:
        beside = {BESIDE[name]: row.get(name) or None for name in self.beside}
        both = []
        for name, answer in zip(self.names, answers, strict=True):
            whole = _with_what_was_asked(asked, _messages(answer, f'{where}, column "{name}"'), where)
            if not whole or _role(whole[-1]) not in ("assistant", "gpt", "model", "function_call"):
                return UNANSWERED
            both.append(conversation_of(whole, f'{where}, column "{name}"', **beside))
        chosen, rejected = (replace(one, turns="last") for one in both)
        if chosen.messages[:-1] != rejected.messages[:-1]:
            return EARLIER
        said = _paired(as_prompt(chosen), *(as_answer(one.messages[-1]) for one in (chosen, rejected)))
        return said if isinstance(said, str) else _talks(said, chosen, rejected)


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer, as another layout reads it, and the column that says whether it was liked."""

    layout: Layout
    label: str

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return [*self.layout.columns, self.label]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError for a judgement that is neither yes nor no."""
        said, value = self.layout(row, where), row.get(self.label)
        liked = TRUTHS.get(str(value).strip().lower())
        if isinstance(said, str):
            return said
        if value in (None, ""):
            return "no judgement"
        if liked is None:
            raise InputError(
                f'{where}, column "{self.label}": {value!r:.60} does not say whether the answer was liked.',
                fix="A judgement is true or false, or 1 or 0.",
            )
        given = replace(said.given, turns="last") if isinstance(said.given, Conversation) else said.given
        return replace(said, given=given, wanted=Liked(liked))


def _choose(table: Table, section: DataSection) -> Layout | None:
    names = next((pair for pair in PAIRS if set(pair) <= set(table.columns)), None)
    if section.text is not None or section.text_pair is not None:
        raise InputError(
            "data.text and data.text_pair name texts for a head, and this task compares answers.",
            fix='Name the prompt and both answers: --prompt "{question}" --completion "{better}" --rejected "{worse}"',
        )
    label = section.label or next((name for name in VERDICTS if name in table.columns), None)
    if section.rejected is not None or any(worse in table.columns for _, worse in PAIRS):
        return _pairs(table, section, names)
    if label is None:
        raise InputError(
            f"{table.name} has no answers to compare: its columns are {listed(table.columns)}.",
            fix='Give "prompt", "chosen" and "rejected", or name them: --prompt "{question}" --completion "{better}" '
            '--rejected "{worse}"; or answers with a judgement each (true or false): --label good',
        )
    if label not in table.columns:
        raise InputError(f'data.label names the column "{label}", which {table.name} does not have.', fix="Correct it.")
    layout = ANSWERS.choose(table, section.model_copy(update={"label": None}))
    if isinstance(layout, Templates):
        check_columns(layout.templates, table)
    return None if layout is None else Judged(layout, label)


def _pairs(table: Table, section: DataSection, names: tuple[str, str] | None) -> Layout:
    asked = next((name for name in ASKED if name in table.columns), None)
    if names and section.prompt is None and section.completion is None and section.rejected is None:
        beside = {BESIDE[name]: name for name in reversed(BESIDE) if name in table.columns}
        return PairOfAnswers(names, asked, list(beside.values()))
    known = names or PAIRS[0]
    prompt = section.prompt or (f"{{{asked}}}" if asked else None)
    templates = (
        None if prompt is None else Template(prompt, "data.prompt"),
        Template(section.completion or f"{{{known[0]}}}", "data.completion"),
        Template(section.rejected or f"{{{known[1]}}}", "data.rejected"),
    )
    check_columns([template for template in templates if template], table)
    return PairOfTexts(*templates)


def _column(name: str) -> Template:
    return Template(f"{{{name}}}", f'the column "{name}"')


def _paired(prompt: str, chosen: str, rejected: str) -> Said:
    if not chosen.strip() or not rejected.strip():
        return EMPTY
    if chosen.strip() == rejected.strip():
        return EQUAL
    return Example("", prompt, chosen, wanted=Rejected(rejected))


def _talks(said: Example, chosen: Conversation, rejected: Conversation) -> Example:
    assert isinstance(said.wanted, Rejected)
    return replace(said, given=chosen, wanted=replace(said.wanted, given=rejected))


def _split(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return what both begin with, up to the last answer's turn or a whole word, and the rest of each."""
    differ = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    same = chosen[: next(differ, min(len(chosen), len(rejected)))]
    turns = [same.rfind(turn) + len(turn) for turn in TURNS if turn in same]
    blank = re.search(r"\s+\S*\Z", same)
    end = max(turns) if turns else blank.start() if blank else 0
    return same[:end], chosen[end:], rejected[end:]


def _unpacked(value: Any, where: str) -> Any:
    begins = value.lstrip()[:1] if isinstance(value, str) else ""
    return text_files.json_value(value, where) if begins in ("[", "{") and begins else value


def _messages(value: Any, where: str) -> list[Any]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, list | tuple):
        return list(value)
    raise InputError(
        f"{where}: an answer is expected, not {kind(value)}.",
        fix='Answers are texts, or messages such as {"role": "assistant", "content": "..."}.',
    )


def _with_what_was_asked(asked: Any, answer: list[Any], where: str) -> list[Any]:
    """Return the whole conversation; an answer of several messages may hold the question already."""
    holds = len(answer) > 1 and _role(answer[0]) not in ("assistant", "gpt", "model")
    if holds or asked in (None, "", []):
        return answer
    before = [{"role": "user", "content": asked}] if isinstance(asked, str) else _messages(asked, where)
    return [*before, *answer]


def _role(message: Any) -> Any:
    return message.get("role", message.get("from")) if isinstance(message, Mapping) else None


PREFERENCES = Reading(_choose, refuse=(refuse_tagged_tokens,), compares=True)
"""Two answers to each prompt, the better one named, or one with a judgement."""
