"""Rows of train and validation that test holds, and rows of train that validation holds: removed before training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tunelift.config.schema import DataSection
from tunelift.core.records import Example, Picture
from tunelift.data.counts import DataReport
from tunelift.data.duplicates import Match, near_duplicates
from tunelift.data.examples import group_of
from tunelift.data.overlap import Held, compared_texts

MOST_NEAR = 0.5
"""Rows that nearly repeat test, or validation, are removed where they are half of train or fewer."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A row that was removed because test holds it, exactly or nearly; the texts are those that were compared."""

    row: Example
    test: Example
    texts: tuple[str, str]
    similarity: float
    is_near: bool


class LeakRemoval:
    """What is removed from `rows`, by role, and counted in `report`; `with_kin` says that validation was drawn so.

    `leaks`, `duplicate_of` and `repeats` are those of `splits.Splits`.
    """

    def __init__(
        self, section: DataSection, rows: dict[str, list[Example]], report: DataReport, with_kin: bool
    ) -> None:
        self.section, self.rows, self.report, self.with_kin = section, rows, report, with_kin
        self.leaks: list[Leak] = []
        self.duplicate_of: dict[str, str] = {}
        self.repeats: list[Example] = []

    def remove(self, roles: Collection[str]) -> None:
        """Remove from train and validation what test holds, then from train what validation holds; groups whole.

        Say so where there is no test to look at.
        """
        test = self.rows.get("test", [])
        if not test and "train" in roles:
            self.report.notes.append("no test set was read, so train was not checked for rows that stand in it")
        if not self.section.deduplicate:
            self.report.notes.append("data.deduplicate is off: train may hold rows of validation and test")
            return
        self._remove_equal(test)
        repeats = self._remove_near(test)
        if "train" in self.rows and self.rows.get("validation"):
            self._remove_validation(repeats)

    def _remove_equal(self, test: list[Example]) -> None:
        held, groups = Held(test), self._groups(test)
        for role in ("train", "validation"):
            before = self.rows.get(role, [])
            found = {index: items for index, row in enumerate(before) if (items := held.given_away(row))}
            rest = (row for index, row in enumerate(before) if index not in found)
            self._keep(role, [row for row in rest if group_of(row.row, self.section) not in groups], "overlap")
            for index, items in found.items() if role == "train" else ():
                row = before[index]
                self.leaks.append(Leak(row, items[0], (row.prompt, items[0].prompt), 1.0, is_near=False))
                for item in items:
                    self.duplicate_of.setdefault(item.id, row.id)

    def _remove_near(self, test: list[Example]) -> set[str]:
        """Remove the rows that nearly repeat test; return the ids of rows left in train that nearly repeat validation.

        One pass compares with both. A validation that was drawn with its kin is not compared: what it nearly repeats in
        train is made from one template with it.
        """
        train, validation = self.rows.get("train", []), self.rows.get("validation", [])
        both = train + validation
        others = test + ([] if self.with_kin else validation)
        if not both or not others or isinstance(both[0].given, Picture):  # names of files say nothing of pictures
            return set()
        texts = compared_texts(both + others, like=test or self._like_validation())
        near = near_duplicates(texts[: len(both)], texts[len(both) :])
        gone = self._near_test(both, test, [match for match in near if match.other < len(test)])
        for index, match in sorted(gone.items()):
            if index < len(train):
                pair = texts[index], texts[len(both) + match.other]
                self.leaks.append(Leak(both[index], test[match.other], pair, match.similarity, is_near=True))
        self._keep("train", [row for index, row in enumerate(train) if index not in gone], "near_overlap")
        after = [row for index, row in enumerate(validation, len(train)) if index not in gone]
        self._keep("validation", after, "near_overlap")
        held = {len(test) + number for number in range(len(validation)) if len(train) + number not in gone}
        return {train[match.index].id for match in near if match.index < len(train) and match.other in held}

    def _near_test(self, both: list[Example], test: list[Example], near: list[Match]) -> dict[int, Match]:
        """Return the rows of train and validation to remove as near duplicates of test, each with its first match."""
        trained = len(self.rows.get("train", []))
        for match in near:
            if match.index < trained:
                self.duplicate_of.setdefault(test[match.other].id, both[match.index].id)
        gone = {match.index: match for match in reversed(near)}
        return {} if self._are_most("test", sum(index < trained for index in gone), "nearly the same as") else gone

    def _remove_validation(self, repeats: set[str]) -> None:
        """Remove from train the rows that validation holds, groups whole, and `repeats`, which nearly repeat it.

        If the rows to remove are most of train, the near ones stay; and so do equal ones where validation was drawn,
        since many answers to few prompts then stand on both sides.
        """
        train, validation = self.rows["train"], self.rows["validation"]
        held, groups = Held(validation, self._like_validation()), self._groups(validation)
        equal = {example.id for example in train if held.given_away(example)}
        if self.with_kin and self._are_most("validation", len(equal), "the same prompt as"):
            return
        self.repeats = [example for example in train if example.id in equal]
        after = [row for row in train if row.id not in equal and group_of(row.row, self.section) not in groups]
        self._keep("train", after, "overlap")
        near = [example for example in self.rows["train"] if example.id in repeats]
        if not self._are_most("validation", len(near), "nearly the same as"):
            self.repeats += near
            self._keep("train", [row for row in self.rows["train"] if row.id not in repeats], "near_overlap")

    def _are_most(self, role: str, count: int, what: str) -> bool:
        """Tell whether so many rows are most of train, and if so, note that they stay."""
        trained = len(self.rows.get("train", []))
        if count <= trained * MOST_NEAR:
            return False
        self.report.notes.append(
            f"{count} of {trained} train rows are {what} a {role} row; the data seem to be made from templates, so "
            "these rows stay in train"
        )
        return True

    def _like_validation(self) -> list[Example]:
        """Return rows that tell whether prompts say anything: one row of validation does not."""
        validation = self.rows.get("validation", [])
        return validation if len(validation) > 1 else self.rows.get("train", [])

    def _groups(self, examples: Sequence[Example]) -> set[str]:
        return {group for row in examples if (group := group_of(row.row, self.section)) is not None}

    def _keep(self, role: str, after: list[Example], count: str) -> None:
        """Leave the role the rows `after`, and count those that are gone."""
        if gone := len(self.rows.get(role, [])) - len(after):
            counts = self.report.splits[role]
            setattr(counts, count, getattr(counts, count) + gone)
            self.rows[role] = after
