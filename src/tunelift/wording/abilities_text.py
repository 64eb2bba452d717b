"""What PEFT methods can do, as a table for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.wording.numbers import aligned

Abilities = Sequence[Mapping[str, Any]]
"""Methods, each as its `to_dict` gives it."""

COLUMNS = {
    "begins as the base": "begins_as_base", "trains": "trains", "switches off": "switches_off",
    "peft reads it": "loads_with_peft", "merges": "merges", "stands beside": "stands_beside",
}  # fmt: skip
SEEN = {True: "yes", False: "no", None: "-"}


def describe(abilities: Abilities, about: str) -> str:
    """Return methods as plain text: the table of those that are trained, and why the others are refused.

    `about` says what the table is of.
    """
    trained, others = _split(abilities)
    parts = [about, aligned([_head(trained), *(_row(one, trained) for one in trained)])] if trained else [about]
    if needs := [f"{one['method']} needs {need}." for one in trained for need in one["needs"]]:
        parts.append("\n".join(needs))
    if others:
        parts.append(aligned([["not trained", "why"], *([one["method"], _why(one)] for one in others)]))
    return "\n\n".join(parts)


def markdown(abilities: Abilities, about: str) -> str:
    """Return the same as Markdown."""
    trained, others = _split(abilities)
    parts = [about]
    if trained:
        parts.append(table(_head(trained), [_row(one, trained) for one in trained]))
    if others:
        parts.append(table(["not trained", "why"], [[one["method"], _why(one)] for one in others]))
    return "\n\n".join(parts)


def _split(abilities: Abilities) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    others = [one for one in abilities if one["verdict"] in ("refused", "wrong")]
    return [one for one in abilities if one not in others], others


def _why(one: Mapping[str, Any]) -> str:
    return f"{one['verdict']}: {one['reason']}" if one["verdict"] == "wrong" else str(one["reason"])


def _seen(abilities: Abilities) -> dict[str, str]:
    """Return the columns in which anything stands."""
    return {name: key for name, key in COLUMNS.items() if any(one[key] is not None for one in abilities)}


def _head(abilities: Abilities) -> list[str]:
    return ["method", "", *_seen(abilities), *["trained numbers"] * _counted(abilities), "learning rate"]


def _row(one: Mapping[str, Any], all_of_them: Abilities) -> list[str]:
    rate, under_head = one["learning_rate"], one["learning_rate_for_head"]
    rates = "-" if rate is None else f"{rate:g}"
    return [
        one["method"],
        one["title"],
        *(SEEN[one[key]] for key in _seen(all_of_them).values()),
        *[_count(one)] * _counted(all_of_them),
        f"{rates}; under a head {under_head:g}" if under_head else rates,
    ]


def _counted(abilities: Abilities) -> bool:
    return any(one["trainable"] is not None for one in abilities)


def _count(one: Mapping[str, Any]) -> str:
    if one["trainable"] is None:
        return "depends on the weights"
    return f"{one['trainable']:,} ({100 * one['trainable'] / one['total']:.3g}%)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
