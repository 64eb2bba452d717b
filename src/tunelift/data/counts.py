"""What became of the rows: counts per split, hashes of the sources, notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_WORDS = {
    "empty": "empty",
    "duplicates": "removed as duplicates",
    "overlap": "removed because test or validation has them",
    "near_overlap": "removed because test or validation has nearly the same",
    "split_off": "split off for validation or test",
    "capped": "left out by the limit",
}


@dataclass(slots=True)
class SplitCounts:
    """What became of the rows of one split.

    read = empty + duplicates + overlap + near_overlap + split_off + capped + kept.
    """

    read: int = 0
    empty: int = 0
    empty_reasons: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    overlap: int = 0
    near_overlap: int = 0
    split_off: int = 0
    capped: int = 0
    kept: int = 0

    def line(self, role: str) -> str:
        """Return one line for people, with the counts that are not zero."""
        gone = [f"{getattr(self, name)} {words}" for name, words in _WORDS.items() if getattr(self, name)]
        return f"{role}: {self.kept} rows" + (f" of {self.read} ({', '.join(gone)})" if gone else "")


@dataclass(slots=True)
class DataReport:
    """Counts per split, the SHA-256 of each source by name, what a reader should know, and the hygiene of the rows."""

    splits: dict[str, SplitCounts] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hygiene: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for a JSON file."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the report as lines for people."""
        lines = [counts.line(role) for role, counts in self.splits.items()]
        near, conflicts = self.hygiene.get("near_duplicates", {}), self.hygiene.get("conflicts", {})
        if near.get("removed_from_train") or near.get("within_train"):
            removed, within = near["removed_from_train"], near["within_train"]
            lines.append(
                f"near duplicates: {removed} of test or validation removed from train, {within} within train kept"
            )
        if conflicts.get("count"):
            lines.append(f"conflicts: {conflicts['count']} inputs stand there with different answers")
        return lines + self.notes
