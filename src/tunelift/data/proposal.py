"""For a table with columns of unusual names: say what they are, and which command would fit."""

from __future__ import annotations

import shlex

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.data.formats import GIVEN, Table

# The surer a name says "answer", the earlier it stands.
ANSWER_NAMES = (
    *("completion", "answer", "response", "output", "label", "labels", "category", "target", "class"),
    *("intent", "topic", "sentiment", "summary"),
)
_LOOKED_AT = 1000  # rows; enough to tell a label from a text


def propose(table: Table, section: DataSection, *, classification: bool) -> InputError:
    """Return the error that prints the columns and proposes the one command that would fit them."""
    problem = f"{table.name} has the columns {listed(table.columns)}: it is not clear which of them is the answer."
    columns = [name for name in table.columns if name not in (section.id, section.group, "id") and _flat(table, name)]
    hint = header_hint(table)
    if hint or not columns:
        return InputError(problem, fix=hint or "Set data.prompt and data.completion to templates over columns of text.")
    answer = _answer_column(table, columns)
    others = [name for name in columns if name != answer]
    if not others:
        return InputError(problem, fix=f"As plain text: {_command(table, text=answer)}")
    text = max(others, key=lambda name: _mean_length(table, name))
    if classification:
        return InputError(problem, fix=f"This would fit: {_command(table, text=text, label=answer)}")
    heading = answer.replace("_", " ").capitalize()
    options = {"prompt": f"{{{text}}}\\n{heading}:", "completion": f" {{{answer}}}"}
    return InputError(problem, fix=f"This would fit: {_command(table, **options)}")


def header_hint(table: Table) -> str:
    """Say how to name columns where the first line of a file looks like data, not like a header; else nothing."""
    suspicious = [name for name in table.columns if len(name) > 60 or name.replace(".", "", 1).isdigit()]
    if table.unit != "line" or not suspicious:
        return ""
    names = ["label", "text"] if len(table.columns) == 2 else [f"column{i + 1}" for i in range(len(table.columns))]
    return (
        f'The first line looks like data ("{suspicious[0][:40]}"). '
        f"For a file without a header, name its columns: --columns {','.join(names)}"
    )


def _answer_column(table: Table, columns: list[str]) -> str:
    """Take the column whose name says so, or else the one with the fewest distinct values."""
    named = [name for known in ANSWER_NAMES for name in columns if name.lower() == known]
    return named[0] if named else min(columns, key=lambda name: len(set(_texts(table, name))))


def _flat(table: Table, column: str) -> bool:
    return not any(isinstance(row.get(column), dict | list | tuple | bytes) for row in table.rows[:_LOOKED_AT])


def _texts(table: Table, column: str) -> list[str]:
    return [str(row.get(column, "")) for row in table.rows[:_LOOKED_AT]]


def _mean_length(table: Table, column: str) -> float:
    texts = _texts(table, column)
    return sum(map(len, texts)) / len(texts)


def _command(table: Table, **options: str) -> str:
    named = str(table.path) if table.path else table.name.removesuffix(" (train)")
    source = "DATA" if named == GIVEN else shlex.quote(named)
    flags = " ".join(f"--{name} {_quoted(value)}" for name, value in options.items())
    return f"tunelift run --model MODEL --data {source} {flags}"


def _quoted(value: str) -> str:
    """Quote for a shell: double quotes, which people know, unless something in them would still be special."""
    return shlex.quote(value) if any(mark in value for mark in '"$`!') else f'"{value}"'
