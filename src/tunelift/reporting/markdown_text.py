"""Pieces of Markdown: tables of comparisons, and texts of others that must stay texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunelift.reporting import wording
from tunelift.reporting.changes import readable
from tunelift.reporting.evidence import EntryRow

LONGEST_CODE = 160


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a table; the columns numbered in `right` hold figures and are set to the right."""
    rule = ["---:" if index in right else "---" for index in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def entry_table(rows: Sequence[EntryRow], first: str, before: str = "base") -> str:
    """Return before, tuned, difference, interval, p and verdict of each row."""
    head = [first, before, "tuned", "difference", "interval", "p", "verdict"]
    return table(head, [_cells(row) for row in rows], right=(1, 2, 3))


def _cells(row: EntryRow) -> list[str]:
    entry = row.entry
    p, adjusted = wording.p_figure(entry.get("p")), entry.get("p_adjusted")
    differs = adjusted is not None and adjusted != entry.get("p")
    return [
        plain(row.name),
        wording.number(entry.get("base")),
        wording.number(entry.get("tuned")),
        wording.signed(entry.get("difference")),
        wording.interval(entry.get("interval")),
        f"{p}, adjusted {wording.p_figure(adjusted)}" if differs else p,
        str(entry.get("verdict", "")),
    ]


def plain(text: object) -> str:
    """Return a text in one line in which no character means anything to Markdown."""
    folded = " ".join(readable(text).split())
    return re.sub(r"([\\`*_\[\]<|~]|^[>#+-])", r"\\\1", folded)


def code(text: object, most: int = LONGEST_CODE) -> str:
    """Return a text in one line as a code span, cut after `most` characters; nothing in it is interpreted."""
    folded = " ".join(readable(text).split())
    if len(folded) > most:
        folded = f"{folded[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    if not folded:
        return "(nothing)"
    fence = "`" * (max((len(run) for run in re.findall("`+", folded)), default=0) + 1)
    pad = " " if folded[0] == "`" or folded[-1] == "`" else ""
    return f"{fence}{pad}{folded}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """Return a block of code with a fence that the text itself does not hold."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
