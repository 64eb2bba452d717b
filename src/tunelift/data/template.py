"""Templates over columns: "Message: {text}\\nIntent:". They reach column values and nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tunelift.core.errors import InputError, did_you_mean, listed

# Doubled braces are literal; a name is anything between single braces; a brace left alone is a mistake.
_PIECES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """Text with column names in braces.

    str.format is not used: it follows attributes and indices of the values ("{text.__class__}"), and a template may
    come from somebody else's file. Raises InputError for braces that do not match.
    """

    def __init__(self, text: str, key: str) -> None:
        """Take the template and the key it was set by, for messages."""
        self.text = text
        self.key = key
        self._pieces: list[tuple[str, str | None]] = list(self._parse(text))
        self.columns = [column for _, column in self._pieces if column is not None]

    def fill(self, row: Mapping[str, Any], where: str) -> str:
        """Put the row's values in; a column that the row lacks is empty."""
        parts = (
            literal + ("" if column is None else as_text(row.get(column), f'{where}, column "{column}"'))
            for literal, column in self._pieces
        )
        return "".join(parts)

    def blank(self, row: Mapping[str, Any], where: str) -> bool:
        """Whether every column that the template names is empty in this row; false for a template of text alone."""
        values = [as_text(row.get(column), where) for column in self.columns]
        return bool(values) and not any(value.strip() for value in values)

    def problems(self, columns: list[str], name: str) -> list[str]:
        """Say which of the template's columns the table `name` lacks."""
        return [
            f'{self.key} names the column "{column}", which {name} does not have.{did_you_mean(column, columns)} '
            f"Its columns: {listed(columns)}."
            for column in dict.fromkeys(self.columns)
            if column not in columns
        ]

    def _parse(self, text: str) -> list[tuple[str, str | None]]:
        pieces: list[tuple[str, str | None]] = []
        literal, done = "", 0
        for match in _PIECES.finditer(text):
            literal += text[done : match.start()]
            done = match.end()
            if match[0] in ("{{", "}}"):
                literal += match[0][0]
            elif match[1]:
                pieces.append((literal, match[1]))
                literal = ""
            else:
                raise InputError(
                    f'{self.key}: "{match[0]}" at character {match.start() + 1} of {self.text!r} names no column.',
                    fix='A column stands in braces, as in "{text}"; a brace itself is written twice: "{{" or "}}".',
                )
        return [*pieces, (literal + text[done:], None)]


def as_text(value: Any, where: str) -> str:
    """Write a value as text: 1 as "1", 1.0 as "1.0", true as "true" (as in JSON), None and NaN as nothing.

    Raises InputError for lists and the like, infinities, and text with half of a character in it.
    """
    if isinstance(value, str):
        return whole_characters(value, where)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping | list | tuple | bytes):
        raise InputError(
            f"{where} holds a {type(value).__name__}, where text or a number is expected.",
            fix="Templates take columns of text and numbers; write the part you want to a column of its own.",
        )
    if isinstance(value, float) and math.isinf(value):
        raise InputError(f"{where} holds an infinite number.", fix="Write the number, or nothing where it is missing.")
    return str(value)


def whole_characters(text: str, where: str) -> str:
    """Return the text; raise InputError where it holds half of a character, which no tokenizer takes."""
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half of a character (\\u{ord(text[error.start]):x}, character {error.start + 1}).",
            fix="Write the whole character, or remove the half: it is no text.",
        ) from error
    return text
