"""Multiple choice: what is asked, the options of a row, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Options
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import Said
from tunelift.data.template import Template, as_text

LISTS = ("choices", "options", "endings", "candidates")
"""What people call a column of lists of options."""
RIGHT = ("answerKey", "answer", "label", "answer_idx", "gold", "correct", "labels")
"""What people call the column that says which option is right."""
PASSAGES = ("context", "article", "passage")
ASKED = ("question", "ctx", "goal", "query", "premise", "sentence", "text", "prompt")
"""What people call what is asked; a passage stands before it."""

_NUMBERED = re.compile(r"(?:option|choice|ending|answer|sol|solution)_?(\d|[A-H])", re.IGNORECASE)
_PLACE = re.compile(r"(\d{1,3})(?:\.0)?")
_LETTER = re.compile(r"[A-Za-z]")
SHAPE = 'Options are a list of texts, or {"text": [...], "label": ["A", "B", ...]}, or a column for each.'

Which = Callable[[Any, Sequence[str], Sequence[str], str], int]
"""(what the cell says, the options, what they are called, where) to the place of the right option."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Templates of what is asked, the columns of options (one of lists, or one for each), and that of the right one.

    A causal model continues what is asked: `before` stands in front of each option. `counts_from` is the number of the
    first option; `how` says how the right one is told: by its own text, by what the row calls it, a letter, or a place.
    """

    asked: Template
    options: tuple[str, ...]
    right: str
    how: str
    counts_from: int = 0
    before: str = ""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that are read."""
        return [*self.asked.columns, *self.options, self.right]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError, naming the row, for options or an answer that cannot be."""
        found, names = options_of(row, self.options, where)
        said = as_text(row.get(self.right), f'{where}, column "{self.right}"').strip()
        if self.asked.blank(row, where):
            return "empty question"
        if not said:
            return "no answer"
        if len(set(found)) < len(found):
            return "two of its options are the same"
        right = self._place(said, found, names, where)
        text = self.asked.fill(row, where)
        given = Options(text, tuple(self.before + option for option in found))
        return Example("", text if self.before else str(given), given.texts[right], given)

    def notes(self, table: Table, group: str | None) -> list[str]:
        """Say how the right option is told, and how many options there are."""
        counts = {len(options_of(row, self.options, table.where(i))[0]) for i, row in enumerate(table.rows)}
        many = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(max(counts))
        told = f"by its number, counted from {self.counts_from}" if self.how == "place" else f"by its {self.how}"
        return [f'{many} options a row; "{self.right}" tells the right one {told}']

    def _place(self, said: str, found: Sequence[str], names: Sequence[str], where: str) -> int:
        if self.how == "text" and said in found:
            return found.index(said)
        if self.how == "name" and said in names:
            return names.index(said)
        place = -1
        if self.how == "letter" and _LETTER.fullmatch(said):
            place = ord(said.upper()) - ord("A")
        elif self.how == "place" and (number := _PLACE.fullmatch(said)):
            place = int(number[1]) - self.counts_from
        if 0 <= place < len(found):
            return place
        raise InputError(
            f'{where}: "{self.right}" is {said!r:.60}, which tells none of its {len(found)} options: '
            f"{listed([repr(text) for text in found], 3)}.",
            fix="The right option is told by its own text, by a letter, or by its number, in one way in all rows; "
            "numbers are counted from 0, or from 1 where none is 0 and one is that of the last option.",
        )


def options_of(row: TableRow, columns: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """Return a row's options without blanks around them, and what the row calls them, if it does.

    Of a column for each, those at the end may be empty. Raises InputError where there are fewer than two, and for an
    empty one.
    """
    value: Any = [row.get(name) for name in columns] if len(columns) > 1 else row.get(columns[0])
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):  # as a csv file keeps it
        value = text_files.json_value(value, where, fix=SHAPE)
    names = list[str]()
    if isinstance(value, Mapping) and isinstance(value.get("text"), list | tuple):
        called = value.get("label")
        names = [str(name) for name in called] if isinstance(called, list | tuple) else []
        value = value["text"]
    if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        names, value = [str(one.get("label")) for one in value], [one.get("text") for one in value]
    if not isinstance(value, list | tuple):
        raise InputError(f'{where}, column "{columns[0]}": a list of options is expected.', fix=SHAPE)
    texts = [as_text(one, f"{where}, option {number}").strip() for number, one in enumerate(value, start=1)]
    while len(columns) > 1 and texts and not texts[-1]:
        texts.pop()
    if len(texts) < 2 or not all(texts) or (names and len(names) != len(texts)):
        what = "an option is empty" if len(texts) > 1 and not all(texts) else f"{len(texts)} options"
        raise InputError(f"{where}: {what}, where two or more texts are expected.", fix=SHAPE)
    return texts, names


def looks_like_options(table: Table) -> tuple[str, ...]:
    """Return the columns of options by their usual names: one of lists, or one for each option; none without any."""
    for name in LISTS:
        cells = [row.get(name) for row in table.rows[:100]] if name in table.columns else []
        if any(isinstance(cell, list | tuple | Mapping) or str(cell).lstrip().startswith("[") for cell in cells):
            return (name,)
    numbered = tuple(name for name in table.columns if _NUMBERED.fullmatch(name))
    return numbered if len(numbered) > 1 else ()


def refuse_options(table: Table) -> None:
    """Raise InputError for rows with options, which a head for labels would not see."""
    if options := looks_like_options(table):
        raise InputError(
            f"{table.name} has options to choose from ({listed(options)}), and this task learns labels.",
            fix="--task multiple-choice, or a causal language model. For labels all the same: name data.text and "
            "data.label.",
        )


def chosen_options(table: Table, section: DataSection, *, continued: bool) -> Chosen | None:
    """Return the layout of a table of options, where data.choices names them or columns of usual names are there.

    `continued` is for a model that continues text: what is asked then ends with "Answer:", and a blank stands before
    each option. Raises InputError where it is not clear what is asked, or which option is right.
    """
    if section.completion is not None or section.text_pair is not None:
        raise InputError(
            "data.completion and data.text_pair have no use where a row has options: each of them is completion, or "
            "second text.",
            fix="Name the columns of options with data.choices, and that of the right one with data.label.",
        )
    options = tuple(part.strip() for part in section.choices.split(",")) if section.choices else ()
    if unknown := [name for name in options if name not in table.columns]:
        raise InputError(
            f"data.choices names {listed(unknown)}, which {table.name} does not have.",
            fix=f"Its columns: {listed(table.columns)}. Several are named with commas between.",
        )
    options = options or looks_like_options(table)
    right = section.label or next((n for n in RIGHT if n in table.columns and n not in options), None)
    asked = _asked(table, section, options, continued=continued)
    if not options or asked is None or right is None:
        return None
    if right not in table.columns:
        raise InputError(f'data.label names "{right}", which {table.name} does not have.')
    if problems := asked.problems(table.columns, table.name):
        raise InputError(*problems, fix="Correct the name, or the template that holds it.")
    how, first = _told(table, options, right)
    return Chosen(asked, options, right, how, first, " " if continued else "")


def _asked(table: Table, section: DataSection, options: Sequence[str], *, continued: bool) -> Template | None:
    """Return the template of what is asked."""
    if section.prompt is not None:
        return Template(section.prompt if "{" in section.prompt else f"{{{section.prompt}}}", "data.prompt")
    ending = "\nAnswer:" if continued else ""
    if section.text is not None:
        text = section.text if "{" in section.text else f"{{{section.text}}}"
        return Template(text + ending, "data.text")
    found = [name for name in ASKED if name in table.columns and name not in options]
    if len(found) > 1:
        raise InputError(
            f"{table.name} has several columns that may be what is asked: {listed(found)}.",
            fix=f'Name them: --text "{{{found[0]}}} {{{found[1]}}}"',
        )
    before = [f"{{{name}}}\n" for name in PASSAGES if name in table.columns][:1]
    return Template("".join([*before, f"{{{found[0]}}}{ending}"]), "data.text") if found else None


def _told(table: Table, options: Sequence[str], right: str) -> tuple[str, int]:
    """Return how a table tells which option is right, and the number of the first one.

    By the options' texts where each answer is one of them, by what rows call them, by letters, else by places. Whole
    numbers that a file has as numbers are places. What is wrong in a single row is said when that is read.
    """
    said, texts, named, are_numbers = list[str](), list[bool](), list[bool](), True
    counts = list[int]()
    for index, row in enumerate(table.rows):
        value = row.get(right)
        text = as_text(value, f'{table.where(index)}, column "{right}"').strip()
        if not text:
            continue
        found, names = options_of(row, options, table.where(index))
        said.append(text)
        texts.append(text in found)
        named.append(text in names)
        counts.append(len(found))
        are_numbers &= isinstance(value, int | float) and not isinstance(value, bool)
    if said and all(named):
        return "name", 0
    if said and not are_numbers and sum(texts) * 2 > len(texts):
        return "text", 0
    places = [(int(number[1]), count) for text, count in zip(said, counts, strict=True)
              if (number := _PLACE.fullmatch(text))]  # fmt: skip
    if not places and any(_LETTER.fullmatch(text) for text in said):
        return "letter", 0
    from_one = bool(places) and all(place > 0 for place, _ in places) and any(p == count for p, count in places)
    return "place", int(from_one)
