"""Which columns are the question and which the answer: by the settings, by their usual names, or by a proposal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Conversation
from tunelift.data.conversations import as_answer, as_prompt, conversation_of, is_learned
from tunelift.data.formats import Row, Table
from tunelift.data.proposal import header_hint, propose
from tunelift.data.template import Template

CLASSIFICATION = "sequence-classification"


@dataclass(frozen=True, slots=True)
class Parts:
    """What one row says: prompt and completion, or in `empty` why it says nothing."""

    prompt: str
    completion: str
    conversation: Conversation | None = None
    empty: str | None = None


Layout = Callable[[Row, str], Parts]
"""`layout(row, where)` makes a row's parts; `where` names the row in messages."""


@dataclass(frozen=True, slots=True)
class Templates:
    """Prompt and completion from templates. `prompt=None` is plain text; `bare` strips the completion to a label."""

    prompt: Template | None
    completion: Template
    bare: bool = False

    def __call__(self, row: Row, where: str) -> Parts:
        """Fill the templates; a row is empty where all columns that a template names are blank."""
        prompt = "" if self.prompt is None else self.prompt.fill(row, where)
        completion = self.completion.fill(row, where)
        empty = None
        if self.prompt is not None and self.prompt.blank(row, where):
            empty = "empty prompt"
        elif self.completion.blank(row, where) or not completion.strip():
            empty = "empty text" if self.prompt is None else "empty completion"
        return Parts(prompt, completion.strip() if self.bare else completion, empty=empty)

    def check(self, table: Table) -> None:
        """Raise InputError with every column that the templates name and the table lacks."""
        templates = [template for template in (self.prompt, self.completion) if template is not None]
        problems = [problem for template in templates for problem in template.problems(table.columns, table.name)]
        if problems:
            raise InputError(*problems, fix=header_hint(table) or "Correct the name, or the template that holds it.")


def choose_layout(table: Table, section: DataSection, task: str) -> Layout:
    """Return the function that turns this table's rows into prompt and completion.

    The settings decide where there are any; otherwise columns with the names people use (messages; conversations;
    prompt, completion; instruction, input, output; text, label; text alone). Raises InputError for columns that are
    missing, and for a table of other columns with the command that would fit.
    """
    choose = _for_head if task == CLASSIFICATION else _for_causal_lm
    layout = choose(table.columns, section)
    if layout is None:
        raise propose(table, section, classification=task == CLASSIFICATION)
    if isinstance(layout, Templates):
        layout.check(table)
    return layout


def _for_causal_lm(columns: list[str], section: DataSection) -> Layout | None:
    if section.prompt is not None or section.completion is not None:
        return _prompt_and_completion(columns, section)
    if section.text is not None or section.label is not None:
        return _text_and_label(_column_or_template(section.text or "text", "data.text"), section.label)
    return _by_usual_names(columns, section)


def _by_usual_names(columns: list[str], section: DataSection) -> Layout | None:
    if {"prompt", "completion"} <= set(columns):
        return _prompt_and_completion(columns, section)
    chat = next((name for name in ("messages", "conversations") if name in columns), None)
    if chat is not None:
        return lambda row, where: _chat(row.get(chat), f'{where}, column "{chat}"')
    if {"instruction", "output"} <= set(columns):
        return _instruction
    if {"text", "label"} <= set(columns):
        return _text_and_label(Template("{text}", "data.text"), "label")
    if set(columns) - {"id", section.id, section.group} == {"text"}:
        return _text_and_label(Template("{text}", "data.text"), None)
    return None


def _for_head(columns: list[str], section: DataSection) -> Layout | None:
    """The text goes to the model as it is, and the completion is the label's name."""
    text = _first_set(columns, section, ("text", "prompt"))
    label = _first_set(columns, section, ("label", "completion"))
    return None if text is None or label is None else Templates(text, label, bare=True)


def _first_set(columns: list[str], section: DataSection, names: tuple[str, str]) -> Template | None:
    """Return the first of two settings, or else the first of two columns of those names."""
    for name in names:
        value = getattr(section, name)
        if value is not None:
            return _column_or_template(value, f"data.{name}")
    return next((Template(f"{{{name}}}", f"data.{name}") for name in names if name in columns), None)


def _prompt_and_completion(columns: list[str], section: DataSection) -> Templates:
    """Use data.prompt and data.completion; for one that is not set, the column of that name."""
    given = {name: getattr(section, name) for name in ("prompt", "completion")}
    missing = [name for name, value in given.items() if value is None and name not in columns]
    if missing:
        raise InputError(
            f"data.{missing[0]} is not set, and the data has no such column.",
            fix=f'Set both data.prompt and data.completion, such as --completion " {{{columns[-1]}}}". '
            f"The columns are: {listed(columns)}.",
        )
    prompt, completion = (
        Template(f"{{{name}}}" if value is None else value, f"data.{name}") for name, value in given.items()
    )
    return Templates(prompt, completion)


def _text_and_label(text: Template, label: str | None) -> Templates:
    """Text and label become a question; text alone is learned as it is."""
    if label is None:
        return Templates(None, text)
    answer = Template(label if "{" in label else f" {{{label}}}", "data.label")
    return Templates(Template(text.text + "\nLabel:", text.key), answer)


def _column_or_template(value: str, key: str) -> Template:
    return Template(value if "{" in value else f"{{{value}}}", key)


_INSTRUCTION = Template("### Instruction:\n{instruction}\n\n### Response:\n", "the instruction format")
_WITH_INPUT = Template(
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n", "the instruction format"
)
_INPUT = Template("{input}", "the instruction format")
_OUTPUT = Template("{output}", "the instruction format")


def _instruction(row: Row, where: str) -> Parts:
    """Instruction, optional input, and output, under the headings that models tuned on such tables have seen."""
    prompt = _INSTRUCTION if _INPUT.blank(row, where) else _WITH_INPUT
    return Templates(prompt, _OUTPUT)(row, where)


def _chat(value: Any, where: str) -> Parts:
    conversation = conversation_of(value, where)
    last = conversation.messages[-1]
    completion = as_answer(last)
    empty = None if completion.strip() else "empty completion"
    return Parts(as_prompt(conversation), completion, conversation, empty if is_learned(last) else "no answer to learn")
