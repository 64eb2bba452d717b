"""Train, validation and test: who gets which rows, without duplicates and without leaks between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tunelift.config.schema import DataSection
from tunelift.core import randomness
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.data.columns import Reading, notes_on_columns
from tunelift.data.counts import DataReport, SplitCounts
from tunelift.data.drawing import split_off
from tunelift.data.duplicates import normalised
from tunelift.data.examples import make_examples
from tunelift.data.hygiene import hygiene
from tunelift.data.leaks import Leak, LeakRemoval
from tunelift.data.roles import ROLES, RoleSource, is_read, sources_of
from tunelift.data.sources import fingerprint, read_rows


@dataclass(slots=True)
class Splits:
    """The examples of each role; a role that was not asked for is empty.

    `leaks` are the rows that were removed because test holds them, exactly or nearly; `duplicate_of` tells for the id
    of a test item the id of a training row that it repeats. `repeats` are the rows of train that were removed because
    validation holds them.
    """

    train: list[Example] = field(default_factory=list)
    validation: list[Example] = field(default_factory=list)
    test: list[Example] = field(default_factory=list)
    report: DataReport = field(default_factory=DataReport)
    leaks: list[Leak] = field(default_factory=list)
    duplicate_of: dict[str, str] = field(default_factory=dict)
    repeats: list[Example] = field(default_factory=list)


def load_splits(section: DataSection, *, reading: Reading, roles: Collection[str] = ROLES) -> Splits:
    """Read the data and give each role in `roles` its rows.

    A fraction for validation or test is taken from train. An item's side follows from its own row, the rows that nearly
    repeat it (or its group) and the seed alone, whatever the templates, so that tuning, which drops the test rows, and
    evaluation, which reads only those, agree. Rows of train and validation that test holds too, exactly or nearly, are
    removed, and then rows of train that validation holds; a test that is a file is read only if it is among the roles.
    Raises InputError for anything wrong with the data, and for a train or test that is left without rows.
    """
    return _Loader(section, reading, frozenset(roles)).load()


class _Loader:
    """One reading of the data: sources, then rows, then the splits between them."""

    def __init__(self, section: DataSection, reading: Reading, roles: frozenset[str]) -> None:
        self.section = section
        self.reading = reading
        self.roles = roles
        self.report = DataReport()
        self.rows: dict[str, list[Example]] = {}

    def load(self) -> Splits:
        sources = sources_of(self.section, self.roles, self.report)
        for role in ROLES:
            source = sources.get(role)
            if source and source.fraction is None and is_read(role, self.roles, sources):
                self._read(role, source)
        for role in ("test", "validation"):
            source = sources.get(role)
            if source and source.fraction is not None and "train" in self.rows:
                self._split_off(role, source.fraction)
        validation = sources.get("validation")
        with_kin = validation is not None and validation.fraction is not None and self.section.group is None
        removed = LeakRemoval(self.section, self.rows, self.report, with_kin)
        removed.remove(self.roles)
        kept = {role: self._capped(role) for role in ROLES if role in self.roles and role in self.rows}
        self._check(kept)
        self.report.splits = {role: self.report.splits[role] for role in kept}
        tested = {example.id for example in kept.get("test", [])}
        duplicate_of = {test: row for test, row in removed.duplicate_of.items() if test in tested}
        near = self.report.splits["train"].near_overlap if "train" in kept else 0
        self.report.hygiene = hygiene(kept, removed.leaks, removed.repeats, near)
        return Splits(
            **kept, report=self.report, leaks=removed.leaks, duplicate_of=duplicate_of, repeats=removed.repeats
        )

    def _read(self, role: str, source: RoleSource) -> None:
        section = self.section
        columns, subset = section.columns, section.subset
        table = read_rows(source.source, columns=columns, subset=subset, split=role, name=source.name)
        examples, empty = make_examples(table, section, self.reading)
        self.report.sources[table.name] = fingerprint(table)
        notes = [*table.notes, *notes_on_columns(table, section, self.reading)]
        self.report.notes += [note for note in notes if note not in self.report.notes]
        counts = SplitCounts(read=len(table.rows), empty=sum(empty.values()), empty_reasons=dict(empty))
        if not examples:
            raise InputError(
                f"{table.name}: all {len(table.rows)} rows are left out ({listed(empty)}).",
                fix="Check that data.prompt and data.completion name the columns that hold the text and the answer.",
            )
        if section.deduplicate and role == "train":
            unique: dict[tuple[str, str], Example] = {}
            for example in examples:
                unique.setdefault(_content(example), example)
            counts.duplicates, examples = len(examples) - len(unique), list(unique.values())
        self.report.splits[role], self.rows[role] = counts, examples

    def _split_off(self, role: str, fraction: float) -> None:
        pool = self.rows["train"]
        if role == "validation" and self.section.max_validation is not None:
            # Rows beyond the limit would be lost to both. Not so for test: its rows must not depend on a limit.
            fraction = min(fraction, self.section.max_validation / len(pool))
        self.rows[role], self.rows["train"] = split_off(pool, role, fraction, self.section)
        self.report.splits[role] = SplitCounts(read=len(self.rows[role]))
        self.report.splits["train"].split_off += len(self.rows[role])

    def _capped(self, role: str) -> list[Example]:
        examples, limit = self.rows[role], getattr(self.section, f"max_{role}")
        counts = self.report.splits[role]
        if limit is not None and limit < len(examples):
            counts.capped = len(examples) - limit
            examples = randomness.sample(examples, limit, f"{self.section.seed} {role}")
        counts.kept = len(examples)
        return examples

    def _check(self, kept: dict[str, list[Example]]) -> None:
        for role in ("train", "test"):
            if role in self.roles and not kept.get(role):
                counts = self.report.splits.get(role, SplitCounts())
                raise InputError(
                    f"No rows are left for {role}: {counts.line(role)}.",
                    fix="Give other rows for train than for validation and test, or more rows.",
                )


def _content(example: Example) -> tuple[str, str]:
    """Return what equal rows share: the prompt, case, blanks and punctuation folded, and the very completion."""
    if not example.prompt.strip():
        return "", normalised(example.completion)
    return normalised(example.prompt), example.completion.strip()
