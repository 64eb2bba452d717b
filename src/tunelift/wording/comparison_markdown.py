"""A comparison as a short Markdown text, for the log of a CI job or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.wording.numbers import Entry, cells, level_text


def markdown(comparison: Mapping[str, Any], gates: Sequence[object] = ()) -> str:
    """Return the headline's sentence, a table of the metrics and baselines, and the gates.

    `comparison` is comparison.json as `to_dict` returns it.
    """
    headline = comparison["headline"]
    lines = [f"**{headline['sentence']}**", "", *_table(comparison)]
    if gates:
        lines += ["", *(f"- {_cell(gate)}" for gate in gates)]
    lines += ["", f"It speaks of {comparison['claim']}."]
    if (comparison["looks"] or 1) > 1:
        lines[-1] += f" This is look {comparison['looks']} at these test items; the error rates hold for the first."
    return "\n".join(lines)


def _table(comparison: Mapping[str, Any]) -> list[str]:
    level = level_text(comparison["level"])
    head = ["metric", "against", "value", "tuned", "difference", f"{level} interval", "p", "verdict"]
    rows = [_row(name, "base", entry) for name, entry in comparison["metrics"].items()]
    metric = comparison["headline"]["metric"]
    rows += [_row(metric, name, entry) for name, entry in comparison["baselines"].items()]
    rows += [_row(entry["metric"], f"base, on {name}", entry) for name, entry in comparison["forgetting"].items()]
    rule = ["---", "---", "---:", "---:", "---:", "---", "---:", "---"]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _row(name: str, against: str, entry: Entry) -> list[str]:
    name, *figures = cells(name, entry)
    return [_cell(name), _cell(against), *figures]


def _cell(value: Any) -> str:
    """One line of text that ends no cell of the table: names come from files of others."""
    return " ".join(str(value).split()).replace("|", "\\|")
