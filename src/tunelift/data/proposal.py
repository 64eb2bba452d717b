"""For a table with columns of unusual names: say what they are, and which command would fit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.data.formats import GIVEN, Table

# The surer a name says "answer", the earlier it stands.
ANSWER_NAMES = (
    *("completion", "answer", "response", "output", "label", "labels", "category", "target", "class"),
    *("intent", "topic", "sentiment", "summary", "score", "similarity"),
)
ASKED_NAMES = (
    *("instruction", "context", "passage", "premise", "hypothesis", "text", "sentence", "prompt", "input", "problem"),
    *("text1", "text2", "text_1", "text_2", "sentence1", "sentence2", "sentence_1", "sentence_2"),
    *("query", "question", "question1", "question2"),
)
"""Names of what is given to the model; all that a table has belong into the prompt, in this order."""
_HEADED = {"question": "Question: ", "query": "Question: ", "premise": "Premise: ", "hypothesis": "Hypothesis: "}
_LOOKED_AT = 1000  # rows; enough to tell a label from a text
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
_MOST_WORDS, _LONGEST_NAME = 4, 60


def propose(table: Table, section: DataSection, *, classification: bool) -> InputError:
    """Return the error that prints the columns and proposes the one command that would fit them."""
    if hint := header_hint(table):
        first = ", ".join(f'"{name[:40]}"' for name in table.columns[:3])
        return InputError(f"{table.name} begins with {first}: it is not clear which column is the answer.", fix=hint)
    problem = f"{table.name} has the columns {listed(table.columns)}: it is not clear which of them is the answer."
    if conversation := next((name for name in table.columns if _holds_messages(table, name)), None):
        for_head = "a classification head takes text: write what it should read to a column of its own"
        remedy = for_head if classification else 'call it "messages"'
        return InputError(problem, fix=f'The column "{conversation}" holds messages; {remedy}.')
    columns = [name for name in table.columns if name not in (section.id, section.group, "id") and _flat(table, name)]
    if not columns:
        return InputError(problem, fix="Set data.prompt and data.completion to templates over columns of text.")
    answer = _answer_column(table, columns)
    others = [name for name in columns if name != answer]
    asked = [name for known in ASKED_NAMES for name in others if name.lower() == known]
    asked = asked or sorted(others, key=lambda name: -_mean_length(table, name))[:1]  # else the one with longest texts
    if not asked:
        fix = f"As plain text: {_command(table, section.columns, text=answer)}"
    elif classification:
        fix = _for_head(table, section, asked, answer)
    else:
        fix = f"This would fit: {_command(table, section.columns, **_templates(asked, answer))}"
    known = {*ANSWER_NAMES, *ASKED_NAMES}
    if table.has_header and not any(name.lower() in known for name in table.columns):
        fix = f"If the first line is a row, no header: {_names(table)}\n{fix}"
    return InputError(problem, fix=fix)


def header_hint(table: Table) -> str:
    """Say how to name columns where the first line of a file looks like data, not like a header; else nothing.

    It does with a name that is a number, very long, or a value that its column has again below. Sentences are data
    where all names are such: a survey may have one column called by its question.
    """
    names = [name for name in table.columns if name] if table.has_header else []
    sure = (
        name for name in names if _NUMBER.fullmatch(name) or len(name) > _LONGEST_NAME or name in _texts(table, name)
    )
    counts = [(name, len(name.split())) for name in names]
    are_sentences = all(words > _MOST_WORDS or (words > 1 and name[-1] in ".?!") for name, words in counts)
    data = next(sure, names[0] if names and are_sentences else None)
    if data is None:
        return ""
    return (
        f'The first line looks like data ("{data[:40]}"). '
        f"For a file without a header, name its columns: {_names(table)}"
    )


def header_note(table: Table, section: DataSection) -> list[str]:
    """Say so where columns are named by the settings and the first row looks like a header of other names."""
    if not section.columns or len(table.rows) < 2:
        return []
    first = [str(value).strip() for value in table.rows[0].values()]
    rest = replace(table, rows=table.rows[1:])
    labels = [name for name in table.columns if _has_few(rest, name) and table.rows[0][name] not in _texts(rest, name)]
    if not labels or not all(word.replace(" ", "_").isidentifier() and len(word.split()) < 3 for word in first):
        return []
    return [f"{table.where(0)}: {listed(first)} looks like a header and is a row, since data.columns names the columns"]


def _names(table: Table) -> str:
    """Return the flags that name the columns of a file without a header, by what they hold."""
    if len(table.columns) == 1:
        return "--columns text"
    labels = [name for name in table.columns if _has_few(table, name) and not _are_fractions(table, name)]
    scores = [name for name in table.columns if _are_fractions(table, name)]
    numbers = [name for name in table.columns if _are_numbers(table, name)]
    texts = [name for name in table.columns if name not in {*labels, *scores, *numbers}]
    if len(table.columns) == 2 and not scores and labels:
        label = min(labels, key=lambda name: _mean_length(table, name))
        return "--columns " + ",".join("label" if name == label else "text" for name in table.columns)
    if len(table.columns) == 2 and len(texts) == 2:
        called = dict(zip(texts, ("question", "answer"), strict=True))
    else:
        called = {name: f"text{number}" if len(texts) > 1 else "text" for number, name in enumerate(texts, start=1)}
        called |= {name: word for word, found in (("label", labels), ("score", scores)) for name in found[:1]}
    names = [called.get(name, f"column{number}") for number, name in enumerate(table.columns, start=1)]
    answer = next((name for name in ("answer", "label", "score") if name in names), None)
    asked = [name for name in names if name.startswith(("text", "question"))]
    flags = _templates(asked, answer) if answer and asked else {}
    return f"--columns {','.join(names)}" + "".join(f" --{name} {_quoted(value)}" for name, value in flags.items())


def _answer_column(table: Table, columns: list[str]) -> str:
    """Take the column whose name says so, or else the one with the fewest distinct values, the shortest of such."""
    named = [name for known in ANSWER_NAMES for name in columns if name.lower() == known]
    fewest = min(columns, key=lambda name: (len(set(_texts(table, name))), _mean_length(table, name)))
    return named[0] if named else fewest


def _templates(asked: list[str], answer: str) -> dict[str, str]:
    headed = _HEADED if len(asked) > 1 else {}
    between = "\\n\\n" if {"instruction", "context", "passage"} & {name.lower() for name in asked} else "\\n"
    prompt = between.join(f"{headed.get(name.lower(), '')}{{{name}}}" for name in asked)
    heading = answer.replace("_", " ").capitalize()
    return {"prompt": f"{prompt}\\n{heading}:", "completion": f" {{{answer}}}"}


def _for_head(table: Table, section: DataSection, asked: list[str], answer: str) -> str:
    texts = _for_texts(asked)
    if _are_fractions(table, answer):
        command = _command(table, section.columns, **texts, label=answer)
        return (
            f'The column "{answer}" holds numbers, and a head for labels has one class for each different one. '
            f"To learn them as numbers: {command} --task regression"
        )
    return f"This would fit: {_command(table, section.columns, **texts, label=answer)}"


def _for_texts(asked: list[str]) -> dict[str, str]:
    """Return the flags that name one text, two, or all of several in one."""
    if len(asked) == 2:
        return {"text": asked[0], "text-pair": asked[1]}
    return {"text": asked[0] if len(asked) == 1 else "\\n".join(f"{{{name}}}" for name in asked)}


def _holds_messages(table: Table, column: str) -> bool:
    values = [row[column] for row in table.rows[:_LOOKED_AT] if row.get(column)]
    turns = [turn for value in values if isinstance(value, list | tuple) for turn in value]
    return bool(turns) and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in turns)


def _flat(table: Table, column: str) -> bool:
    return not any(isinstance(row.get(column), dict | list | tuple | bytes) for row in table.rows[:_LOOKED_AT])


def _has_few(table: Table, column: str) -> bool:
    """Whether a column's values come again and again, as labels do."""
    texts = _texts(table, column)
    return len(set(texts)) <= len(texts) / 2


def _are_numbers(table: Table, column: str) -> bool:
    texts = [text.strip() for text in _texts(table, column) if text.strip()]
    return bool(texts) and all(_NUMBER.fullmatch(text) for text in texts)


def _are_fractions(table: Table, column: str) -> bool:
    return _are_numbers(table, column) and any(float(text or 0) % 1 for text in _texts(table, column))


def _texts(table: Table, column: str) -> list[str]:
    return [str(row.get(column, "")) for row in table.rows[:_LOOKED_AT]]


def _mean_length(table: Table, column: str) -> float:
    texts = _texts(table, column)
    return sum(map(len, texts)) / len(texts)


def _command(table: Table, columns: Sequence[str] | None, **options: str) -> str:
    named = str(table.path) if table.path else table.name.removesuffix(" (train)")
    given = {"columns": ",".join(columns)} if columns else {}
    source = "DATA" if named == GIVEN else shlex.quote(named)
    flags = " ".join(f"--{name} {_quoted(value)}" for name, value in (given | options).items())
    return f"tunelift run --model MODEL --data {source} {flags}"


def _quoted(value: str) -> str:
    """Quote for a shell: double quotes, which people know, unless something in them would still be special."""
    return shlex.quote(value) if any(mark in value for mark in '"$`!') else f'"{value}"'
