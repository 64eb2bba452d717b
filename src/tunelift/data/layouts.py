"""How a row says prompt and completion: templates, instructions, questions over a passage, conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from tunelift.core import text_files
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Pair
from tunelift.data.conversations import as_answer, as_prompt, conversation_of, is_learned
from tunelift.data.formats import Table, TableRow
from tunelift.data.template import Template

BESIDE = {
    "system": "system",
    "system_prompt": "system",
    "tools": "tools",
    "history": "history",
    "chat_template_kwargs": "template_arguments",
}
"""Columns beside a conversation that are part of it, and what `conversation_of` calls them."""


Said = Example | str
"""What one row says, as an example that has no id yet, or why it says nothing."""


class Layout(Protocol):
    """`layout(row, where)` makes what a row says of its `columns`; `where` names the row in messages."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read, those that are optional included."""

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError that names it."""


@runtime_checkable
class Noted(Protocol):
    """A layout that has something to say of a whole table."""

    def notes(self, table: Table, group: str | None) -> list[str]:
        """Return what a reader of the data should know; `group` is the column of groups."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The text that is given, from a template, or a pair of texts from two."""

    first: Template
    second: Template | None = None

    @property
    def templates(self) -> Sequence[Template]:
        """The template of each text."""
        return [self.first] if self.second is None else [self.first, self.second]

    @property
    def columns(self) -> Sequence[str]:
        """The columns that the templates name."""
        return [name for template in self.templates for name in template.columns]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what is given, without a completion; a text is empty where all columns that it names are blank."""
        if any(template.blank(row, where) for template in self.templates):
            return "empty prompt" if self.second is None else "an empty text of a pair"
        first = self.first.fill(row, where)
        if self.second is None:
            return Example("", first, "")
        pair = Pair(first, self.second.fill(row, where))
        return Example("", str(pair), "", pair)


@dataclass(frozen=True, slots=True)
class Templates:
    """Texts and completion from templates. `texts=None` is plain text; `bare` strips the completion to a label.

    `labels` are the texts of a label column to be used instead of those that the rows have.
    """

    texts: Texts | None
    completion: Template
    bare: bool = False
    is_label: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def templates(self) -> Sequence[Template]:
        """All templates."""
        return [*(self.texts.templates if self.texts else ()), self.completion]

    @property
    def columns(self) -> Sequence[str]:
        """The columns that the templates name."""
        return [name for template in self.templates for name in template.columns]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Fill the templates; a row is empty where all columns that a template names are blank."""
        said = Example("", "", "") if self.texts is None else self.texts(row, where)
        answer = {name: self.labels.get(str(row.get(name)), row.get(name)) for name in self.completion.columns}
        completion = self.completion.fill(answer, where)
        if isinstance(said, str):
            return said
        if self.completion.blank(row, where) or not completion.strip():
            return "empty text" if self.texts is None else "empty completion"
        return replace(said, completion=completion.strip() if self.bare else completion)


_INSTRUCTION = Template("### Instruction:\n{instruction}\n\n### Response:\n", "the instruction format")
_WITH_INPUT = Template(
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n", "the instruction format"
)
_INPUT = Template("{input}", "the instruction format")
_OUTPUT = Template("{output}", "the instruction format")


@dataclass(frozen=True, slots=True)
class Instructions:
    """Instruction, optional input, and output, under the headings that models tuned on such tables have seen.

    A `system` text stands in front, then the `history` of earlier instructions and responses under the same headings.
    """

    columns: Sequence[str] = ("instruction", "input", "output", "system", "history")

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError for a history that is no list of pairs."""
        asked = Texts(_INSTRUCTION if _INPUT.blank(row, where) else _WITH_INPUT)
        found = Templates(asked, _OUTPUT)(row, where)
        beside = {name: row.get(name) for name in ("system", "history")}
        if not any(beside.values()):
            return found
        said = conversation_of([{"role": "assistant", "content": ""}], where, **beside).messages[:-1]
        headings = {"system": "{}\n\n", "user": "### Instruction:\n{}\n\n", "assistant": "### Response:\n{}\n\n"}
        before = "".join(headings[message["role"]].format(message["content"]) for message in said)
        return found if isinstance(found, str) else replace(found, prompt=before + found.prompt)


_QUESTION = Template("{context}\n\nQuestion: {question}\nAnswer:", "the question format")


@dataclass(frozen=True, slots=True)
class Questions:
    """A passage, a question about it and, of its answers, the first: SQuAD's rows."""

    columns: Sequence[str] = ("context", "question", "answers")

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; a question without an answer is left out."""
        answers = self.answers(row, where)
        completion = Template(" {answer}", "the question format")
        return Templates(Texts(_QUESTION), completion)({**row, "answer": answers[0] if answers else ""}, where)

    def answers(self, row: TableRow, where: str) -> list[str]:
        """Return the texts of a row's answers, each once."""
        found = row.get("answers")
        texts = found.get("text") if isinstance(found, Mapping) else found
        if not isinstance(texts, list | tuple | None) or not all(isinstance(text, str) for text in texts or ()):
            raise InputError(
                f'{where}, column "answers": texts of answers are expected.',
                fix='Answers are {"text": ["Denver Broncos"], "answer_start": [177]}, or a list of texts.',
            )
        return list(dict.fromkeys(texts or ()))

    def notes(self, table: Table, group: str | None) -> list[str]:
        """Say what is left of several answers, and which rows belong together."""
        several = sum(len(self.answers(row, table.where(index))) > 1 for index, row in enumerate(table.rows))
        notes = [f"{several} questions have several answers: the first is the one learned and scored"] * bool(several)
        contexts = [row.get("context") for row in table.rows]
        if group is None and len(set(map(str, contexts))) < len(contexts):
            notes.append("questions share their passages: --group context keeps those of one on one side of a split")
        return notes


@dataclass(frozen=True, slots=True)
class Conversations:
    """A column of messages and what stands beside it, or a `prompt` and a `completion` of messages."""

    messages: Sequence[str]
    beside: Sequence[str]

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return [*self.messages, *self.beside]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return the conversation, and its last answer as the completion."""
        beside = {BESIDE[name]: row.get(name) or None for name in self.beside}
        if len(self.messages) == 1:
            value, place = row.get(self.messages[0]), f'{where}, column "{self.messages[0]}"'
            if isinstance(value, str) and value.lstrip().startswith("["):  # as a csv file or a database keeps a list
                value = text_files.json_value(value, place)
            return _chat(value, place, beside)
        prompt, completion = (_listed(row.get(name), f'{where}, column "{name}"') for name in self.messages)
        return _chat([*map(_not_learned, prompt), *completion], f"{where}, prompt and completion", beside)


def _chat(value: Any, where: str, beside: Mapping[str, Any]) -> Said:
    conversation = conversation_of(value, where, **beside)
    last = conversation.messages[-1]
    completion = as_answer(last)
    if not is_learned(last):
        return "no answer to learn" if completion.strip() else "empty completion"
    return Example("", as_prompt(conversation), completion, conversation)


def _listed(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(
            f"{where}: a list of messages is expected, as in other rows, not {type(value).__name__}.",
            fix="Give both prompt and completion as text, or both as messages, in every row.",
        )
    return value


def _not_learned(message: Any) -> Any:
    """Mark an answer within the prompt, which is not learned; what is wrong with a message is said elsewhere."""
    role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    is_answer = role in ("assistant", "gpt", "model")
    return {**message, "train": False} if is_answer else message
