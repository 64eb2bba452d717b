"""The entries of comparison.json as rows of tables and lines of drawings, each knowing where it stands there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.reporting.axis import Drawing, Mark, differences, values
from tunelift.reporting.wording import headline, measure

Comparison = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One entry (what was there before, tuned, difference, interval, p, verdict) and its place in comparison.json."""

    name: str
    at: tuple[str, ...]
    entry: Mapping[str, Any]
    note: str = ""

    @property
    def lower_is_better(self) -> bool:
        """Whether a difference below zero is the good one."""
        return self.entry.get("higher_is_better") is False

    @property
    def mark(self) -> Mark | None:
        """The difference and its interval, to be drawn; None where there is no difference."""
        difference = self.entry.get("difference")
        if difference is None:
            return None
        return Mark(self.name, [difference], self.entry.get("interval"), self.entry.get("verdict", "none"), self.note)


def metric_rows(comparison: Comparison) -> list[EntryRow]:
    """Return base against tuned, the headline metric first."""
    name, entry = headline(comparison)
    entries = ({name: entry} if entry else {}) | dict(comparison.get("metrics") or {})
    return [EntryRow(measure(key), ("metrics", key), value) for key, value in entries.items()]


def baseline_rows(comparison: Comparison, untuned: str) -> list[EntryRow]:
    """Return each baseline against tuned on the headline metric, the base first, which is called `untuned`.

    Without baselines it is empty.
    """
    name, entry = headline(comparison)
    baselines = comparison.get("baselines") or {}
    if not baselines:
        return []
    rows = [EntryRow("base", ("metrics", name), entry, untuned)] if entry else []
    for key, value in baselines.items():
        rows.append(EntryRow(key, ("baselines", key), value, str(value.get("description") or "")))
    return rows


def strongest(comparison: Comparison) -> str | None:
    """Return which baseline, the base among them, was the strongest on validation."""
    chosen = (comparison.get("selection") or {}).get("strongest")
    return str(chosen) if chosen else None


def slice_rows(comparison: Comparison) -> dict[str, list[EntryRow]]:
    """Return, for each column, base against tuned on the items of each of its values."""
    return {
        column: [EntryRow(value, ("slices", column, value), entry, _items(entry)) for value, entry in entries.items()]
        for column, entries in (comparison.get("slices") or {}).items()
        if entries
    }


def forgetting_rows(comparison: Comparison) -> list[EntryRow]:
    """Return base against tuned on each set that the training was not about."""
    entries = comparison.get("forgetting") or {}
    return [
        EntryRow(key, ("forgetting", key), entry, measure(entry.get("metric", ""))) for key, entry in entries.items()
    ]


def quantising_rows(comparison: Comparison) -> list[EntryRow]:
    """Return the base in full precision against itself in few bits."""
    entries = comparison.get("quantising") or {}
    return [EntryRow(measure(key), ("quantising", key), entry) for key, entry in entries.items()]


def without_duplicates(comparison: Comparison) -> list[EntryRow]:
    """Return base against tuned on the test items that repeat no training row; empty where none was left out."""
    entry = comparison.get("without_duplicates")
    name, _ = headline(comparison)
    return [EntryRow(measure(name), ("without_duplicates",), entry)] if entry else []


def drawn(rows: Sequence[EntryRow]) -> Drawing | None:
    """Draw the rows' differences on one axis; None where there is none."""
    marks = [mark for row in rows if (mark := row.mark) is not None]
    return differences(marks) if marks else None


def baseline_values(comparison: Comparison, rows: Sequence[EntryRow]) -> Drawing | None:
    """Draw every baseline's value on the test items, and the tuned model's as the line to compare with."""
    _, entry = headline(comparison)
    tuned = entry.get("tuned")
    if tuned is None:
        return None
    marks = [Mark(row.name, [row.entry["base"]]) for row in rows if row.entry.get("base") is not None]
    return values([*marks, Mark("tuned", [tuned], verdict="own")], tuned)


def seeds_drawing(recipe: Mapping[str, Any]) -> Drawing:
    """Draw the difference of each seed in one strip, and their mean with its interval below."""
    verdict = recipe.get("verdict", "none")
    marks = [Mark("each seed", [value for value in recipe["differences"] if value is not None])]
    if recipe.get("difference") is not None:
        marks.append(Mark("mean", [recipe["difference"]], recipe.get("interval"), verdict))
    return differences(marks)


def _items(entry: Mapping[str, Any]) -> str:
    return f"{entry['items']:,} item{'s' * (entry['items'] != 1)}" if "items" in entry else ""
