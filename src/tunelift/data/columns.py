"""Which columns are the question and which the answer: by the settings, by their usual names, or by a proposal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.data.formats import Table
from tunelift.data.layouts import BESIDE, Conversations, Instructions, Layout, Noted, Questions, Templates, Texts
from tunelift.data.options import chosen_options, looks_like_options, refuse_options
from tunelift.data.proposal import header_hint, header_note, propose
from tunelift.data.refused_columns import refuse_preferences, refuse_tagged_tokens, refuse_unusable
from tunelift.data.template import Template

SHARED_FROM = 0.1
"""Of the rows of pairs: where so many share a text or more, it is said."""

NAMING = ("prompt", "completion", "text", "text_pair", "label", "choices", "rejected")
"""The settings that say what a table's columns are."""

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(\.0+)?")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rows of a table mean to a task.

    `choose` returns the layout of a table, or None where it is not clear; `refuse` raises InputError for tables that
    would be misread by the usual names of their columns. `labels` says that a proposal is to name a text and its label,
    `options` that a row may have some to choose from, `compares` that two answers may stand in a row. `group` returns
    the column whose equal values belong together where data.group names none.
    """

    choose: Callable[[Table, DataSection], Layout | None]
    refuse: Sequence[Callable[[Table], None]] = (refuse_preferences, refuse_tagged_tokens)
    labels: bool = False
    options: bool = False
    group: Callable[[DataSection], str] | None = None
    compares: bool = False

    def grouped(self, section: DataSection) -> DataSection:
        """Return the settings with the column of groups that these rows have by themselves."""
        own = self.group(section) if self.group and section.group is None else None
        return section if own is None else section.model_copy(update={"group": own})


def choose_layout(table: Table, section: DataSection, reading: Reading) -> Layout:
    """Return the function that turns this table's rows into prompt and completion.

    The settings decide where there are any; otherwise columns with the names people use (messages; conversations;
    prompt, completion; instruction, input, output; context, question, answers; text, label; text alone). Raises
    InputError for columns that are missing, for columns beside those names that change what a row means and cannot be
    used, and for a table of other columns with the command that would fit.
    """
    if section.choices is not None and not reading.options:
        raise InputError(
            "data.choices names the options of a row, and this task knows none.",
            fix="Take --task multiple-choice, for a head, or a causal language model.",
        )
    if section.rejected is not None and not reading.compares:
        raise InputError(
            "data.rejected is for the task preference alone.", fix="Add --task preference, or leave it out."
        )
    by_names = all(getattr(section, key) is None for key in NAMING)
    for refuse in reading.refuse if by_names else ():
        refuse(table)
    layout = reading.choose(table, section)
    if layout is None:
        raise propose(table, section, classification=reading.labels)
    if by_names:
        refuse_unusable(table, layout.columns)
    if not isinstance(layout, Templates):
        return layout
    check_columns(layout.templates, table)
    return replace(layout, labels=_in_one_way(table, layout, section))


def check_columns(templates: Sequence[Template], table: Table) -> None:
    """Raise InputError for columns that templates name and a table lacks."""
    if problems := [said for template in templates for said in template.problems(table.columns, table.name)]:
        raise InputError(*problems, fix=header_hint(table) or "Correct the name, or the template that holds it.")


def notes_on_columns(table: Table, section: DataSection, reading: Reading) -> list[str]:
    """Say what a reader should know of a table's columns, those that are not used above all."""
    layout = choose_layout(table, section, reading)
    used = {*layout.columns, "id", section.id, section.group}
    unused = [name for name in table.columns if name not in used]
    notes = header_note(table, section)
    named = listed([name or "(no name)" for name in unused], len(unused))
    notes += [f"not used for prompt or answer: the column{'s' * (len(unused) > 1)} {named}"] * bool(unused)
    notes += layout.notes(table, section.group) if isinstance(layout, Noted) else []
    texts = getattr(layout, "texts", None)
    return notes + (_shared(texts, table) if isinstance(texts, Texts) and section.group is None else [])


def _shared(texts: Texts, table: Table) -> list[str]:
    """Say which text of pairs many rows share: what is found of such rows hangs together."""
    if texts.second is None:
        return []
    for name in (name for template in texts.templates for name in template.columns):
        counts = Counter(str(row.get(name)) for row in table.rows)
        shared = sum(count for count in counts.values() if count > 1)
        if shared >= SHARED_FROM * len(table.rows):
            return [
                f'{shared} of {len(table.rows)} rows share their "{name}" with another: --group {name} keeps those of '
                "one on one side of a split, and counts them together"
            ]
    return []


def _in_one_way(table: Table, layout: Templates, section: DataSection) -> Mapping[str, str]:
    """Return how to write the labels of a column that are one label written in several ways: 1.0 and 1, or with blanks.

    A table with one cell missing makes floats of all others, so whole numbers alone are written as such. A completion
    that is not said to be a label is left as it is, unless its column writes few numbers in both ways.
    """
    columns = set(layout.completion.columns)
    if len(columns) != 1:
        return {}
    cells = [str(row.get(name)) for name in columns for row in table.rows if row.get(name) not in (None, "")]
    found = {cell: _WHOLE.fullmatch(cell.strip()) for cell in set(cells) - {"nan"}}
    numbers = {cell: match[1] for cell, match in found.items() if match}
    ways = Counter(numbers.values())
    if section.labels and not set(ways) <= set(section.labels):
        numbers = {}
    if not layout.is_label:
        both_ways = len(numbers) == len(found) and len(ways) < len(numbers) and len(ways) <= len(cells) // 3
        return numbers if both_ways else {}
    whole = {cell: number for cell, number in numbers.items() if len(numbers) == len(found) or ways[number] > 1}
    return {cell: cell.strip() for cell in found if cell.strip() != cell} | whole


def _answers(table: Table, section: DataSection) -> Layout | None:
    if layout := _options(table, section):
        return layout
    if section.text_pair is not None:
        raise InputError(
            "data.text_pair names the second of two texts for a head, and this task writes one text.",
            fix='Put both into the prompt: --prompt "{premise}\\n{hypothesis}\\nLabel:" --completion " {label}"',
        )
    if section.prompt is not None or section.completion is not None:
        return _prompt_and_completion(table.columns, section)
    if section.text is not None or section.label is not None:
        return _text_and_label(section.text or "text", section.label)
    columns = set(table.columns)
    if columns - {"id", section.id, section.group} == {"text"}:
        return _text_and_label("text", None)
    return next((make(table, section) for names, make in _USUAL if names <= columns), None)


def _options(table: Table, section: DataSection) -> Layout | None:
    """Take a row's options for what a model chooses from, where they are named or are there by their usual names."""
    by_names = all(getattr(section, key) is None for key in NAMING)
    answers = {"messages", "conversations", "completion", "output"} & set(table.columns)
    if section.choices is None and (answers or not by_names or not looks_like_options(table)):
        return None
    return chosen_options(table, section, continued=True)


def _pair(table: Table, section: DataSection) -> Layout:
    first = next((row["completion"] for row in table.rows if row.get("completion")), None)
    is_chat = isinstance(first, list | tuple)
    return _chat(table, "prompt", "completion") if is_chat else _prompt_and_completion(table.columns, section)


def _chat(table: Table, *columns: str) -> Layout:
    beside = {BESIDE[name]: name for name in reversed(BESIDE) if name in table.columns}
    return Conversations(columns, list(beside.values()))


_USUAL: Sequence[tuple[Set[str], Callable[[Table, DataSection], Layout]]] = (
    ({"prompt", "completion"}, _pair),
    ({"messages"}, lambda table, _: _chat(table, "messages")),
    ({"conversations"}, lambda table, _: _chat(table, "conversations")),
    ({"instruction", "output"}, lambda *_: Instructions()),
    ({"context", "question", "answers"}, lambda *_: Questions()),
    ({"text", "label"}, lambda *_: _text_and_label("text", "label")),
)
"""The names that people give their columns, and the layout for each; of several that fit the first counts."""


def _classes(table: Table, section: DataSection) -> Layout | None:
    """The text goes to the model as it is, or a pair of texts, and the completion is the label's name."""
    texts = given_texts(table, section)
    label = _first_set(table.columns, section, ("label", "completion"))
    return None if texts is None or label is None else Templates(texts, label, bare=True, is_label=True)


PAIRS = (
    ("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"),
    ("sentence_A", "sentence_B"), ("question1", "question2"), ("question", "sentence"), ("question", "passage"),
    ("query", "document"), ("query", "passage"), ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"),
)  # fmt: skip
"""What people call two columns of texts that are read together."""


def given_texts(table: Table, section: DataSection) -> Texts | None:
    """Return the text or the two that a head is to read: those named, or columns of usual names; None without any.

    Raises InputError where a second text is named and no first one is there, and where columns fit several pairs.
    """
    found = [pair for pair in PAIRS if set(pair) <= set(table.columns)]
    named = section.text is not None or section.prompt is not None
    first = _first_set(table.columns, section, ("text", "prompt"))
    if section.text_pair is not None:
        if first is None:
            raise InputError("data.text_pair names a second text, and data.text no first one.", fix="Name both.")
        return Texts(first, _column_or_template(section.text_pair, "data.text_pair"))
    if named or (first is not None and found[:1] != [PAIRS[0]]):
        return None if first is None else Texts(first)
    if len(found) > 1:
        raise InputError(
            f"{table.name} has several pairs of texts: {listed(' and '.join(pair) for pair in found)}.",
            fix="Name the two with data.text and data.text_pair.",
        )
    return Texts(*(Template(f"{{{name}}}", "data.text") for name in found[0])) if found else None


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
    return Templates(Texts(prompt), completion)


def plain_text(column: str) -> Templates:
    """Return the layout of a text that is learned as it is, by its column or a template."""
    return _text_and_label(column, None)


def _text_and_label(column: str, label: str | None) -> Templates:
    """Text and label become a question; text alone is learned as it is."""
    text = _column_or_template(column, "data.text")
    if label is None:
        return Templates(None, text)
    answer = Template(label if "{" in label else f" {{{label}}}", "data.label")
    return Templates(Texts(Template(text.text + "\nLabel:", text.key)), answer, is_label=True)


def _column_or_template(value: str, key: str) -> Template:
    return Template(value if "{" in value else f"{{{value}}}", key)


ANSWERS = Reading(_answers, options=True)
"""A prompt and the answer to it, a conversation, a question with options, or a text alone."""

CLASSES = Reading(_classes, refuse=(refuse_preferences, refuse_tagged_tokens, refuse_options), labels=True)
"""A text and the name of its class."""
