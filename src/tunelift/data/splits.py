"""Train, validation and test: who gets which rows, without duplicates and without leaks between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core import randomness
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Picture, Rejected
from tunelift.data.columns import Reading, choose_layout, notes_on_columns
from tunelift.data.counts import DataReport, SplitCounts
from tunelift.data.duplicates import connected, near_duplicates, normalised
from tunelift.data.examples import make_examples
from tunelift.data.formats import Table
from tunelift.data.hygiene import hygiene
from tunelift.data.leaks import Leak, LeakRemoval
from tunelift.data.options import Chosen
from tunelift.data.overlap import folded
from tunelift.data.sources import fingerprint, read_rows, resolve_splits, source_name

ROLES = ("train", "validation", "test")
DEFAULT_TEST_FRACTION = 0.2
MOST_KIN, MOST_KIN_SHARE = 20, 0.1
"""Rows that nearly repeat each other fall on one side where they are 20 or fewer, or a tenth of the rows or fewer."""


@dataclass(slots=True)
class RoleSource:
    """Where a role's rows come from: a source of their own, or a fraction of train."""

    source: Any = None
    name: str | None = None
    fraction: float | None = None


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
        self.section = reading.grouped(section)
        self.reading = reading
        self.roles = roles
        self.report = DataReport()
        self.rows: dict[str, list[Example]] = {}
        self.counts_from: dict[int, str] = {}

    def load(self) -> Splits:
        sources = _sources_of(self.section, self.roles, self.report)
        split_off = any(sources[role].fraction is not None for role in self.roles if role in sources)
        for role in ROLES:
            source = sources.get(role)
            # Train is read where a role that was asked for is a part of it, too.
            if source and source.fraction is None and (role in self.roles or (role == "train" and split_off)):
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
        self._check_counting(table)
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

    def _check_counting(self, table: Table) -> None:
        """Raise InputError where two files count options from different numbers: few rows may not show from which."""
        layout = choose_layout(table, self.section, self.reading)
        if isinstance(layout, Chosen) and layout.how == "place":
            self.counts_from.setdefault(layout.counts_from, table.name)
        if len(self.counts_from) > 1:
            raise InputError(
                f"{self.counts_from[1]} tells the right option by its number from 1, and {self.counts_from[0]} by its "
                "number from 0: one of them is misread, or they differ.",
                fix="Tell it by its own text or by a letter, or put the rows in one file and take a fraction of them.",
            )

    def _split_off(self, role: str, fraction: float) -> None:
        pool = self.rows["train"]
        if role == "validation" and self.section.max_validation is not None:
            # Rows beyond the limit would be lost to both. Not so for test: its rows must not depend on a limit.
            fraction = min(fraction, self.section.max_validation / len(pool))
        self.rows[role], self.rows["train"] = _split_off(pool, role, fraction, self.section)
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
    """Return what equal rows share: the prompt, case, blanks and punctuation folded, and the very completion.

    Of a preference pair that is both answers.
    """
    if not example.prompt.strip():
        return "", normalised(example.completion)
    beside = [f"rejected: {example.wanted.text.strip()}"] if isinstance(example.wanted, Rejected) else []
    return normalised(example.prompt), "\n".join([example.completion.strip(), *beside])


def _sources_of(section: DataSection, roles: Collection[str], report: DataReport) -> dict[str, RoleSource]:
    """Settle where each role's rows come from, before anything but the list of splits is read."""
    found = {}
    for role in ROLES:
        if (value := getattr(section, role)) is not None:  # a number lies between 0 and 1, as the schema has checked
            found[role] = RoleSource(fraction=value) if isinstance(value, int | float) else RoleSource(value)
    own = resolve_splits(section.train, subset=section.subset) if section.train is not None else None
    if own is not None:
        _use_splits(own, found, section, roles)
    if "test" in roles and "test" not in found:
        if "train" not in found or "train" not in roles:
            raise InputError(
                "There is no test data: data.test is not set.",
                fix=f"Give a file, or the fraction of train that tuning held out (run: {DEFAULT_TEST_FRACTION}).",
            )
        found["test"] = RoleSource(fraction=DEFAULT_TEST_FRACTION)
        report.notes.append(f"data.test is not set: {DEFAULT_TEST_FRACTION:.0%} of train is split off for it")
    if "train" in roles and "train" not in found:
        raise InputError("There is no training data: data.train is not set.", fix="Give a file: --data train.csv")
    return found


def _use_splits(
    own: dict[str, Any], found: dict[str, RoleSource], section: DataSection, roles: Collection[str]
) -> None:
    """Let the splits of a folder or a Hub data set stand for what the settings leave open."""
    name = source_name(section.train)
    if "train" not in own and len(own) > 1 and "train" in roles:
        raise InputError(f"{name} has no train split; it has {listed(own)}.", fix="Set data.train to a file.")
    del found["train"]
    if "train" in own or len(own) == 1:
        found["train"] = RoleSource(own.get("train", next(iter(own.values()))), f"{name} (train)")
    if "validation" in own and "validation" not in section.model_fields_set:
        found["validation"] = RoleSource(own["validation"], f"{name} (validation)")
    if "test" in own and "test" not in found:
        found["test"] = RoleSource(own["test"], f"{name} (test)")


def _split_off(
    pool: Sequence[Example], role: str, fraction: float, section: DataSection
) -> tuple[list[Example], list[Example]]:
    """Return the rows of `pool` that are drawn for a role, and the others.

    Rows of one group stay together, or without groups those that nearly repeat each other. Raises InputError where all
    rows are of one kind.
    """
    by_group = section.group is not None
    keys = [str(example.cluster) for example in pool] if by_group else _keys(pool, section)
    taken = _drawn(keys, fraction, f"{section.seed} {role}")
    if not taken or len(taken) == len(set(keys)):
        what = f'values of "{section.group}"' if by_group else "different rows"
        raise InputError(
            f"No {role} can be split off train: it has too few {what} ({len(set(keys))}).",
            fix=f"Give data.{role} a file of its own, or train more rows.",
        )
    pairs = list(zip(pool, keys, strict=True))
    return [example for example, key in pairs if key in taken], [example for example, key in pairs if key not in taken]


def _keys(pool: Sequence[Example], section: DataSection) -> list[str]:
    """Return one key for each row, the same for rows that nearly repeat each other: the first of theirs.

    Rows are compared as they stand in the file, so that the template does not matter. More kin than a tenth of the
    rows are no copies of each other but made from one template; they are told apart.
    """
    pictures = [row.given.sha256 for row in pool if isinstance(row.given, Picture)]
    if len(pictures) == len(pool):  # whose names say nothing
        return pictures
    rows = [{name: row.row[name] for name in sorted(row.row) if name not in ("id", section.id)} for row in pool]
    # Without its id, case and blanks folded, a row is the same under every template, and equal rows are.
    own = [folded(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)) for row in rows]
    if not section.deduplicate:
        return own
    kin = connected(len(pool), near_duplicates(["\n".join(_texts_in(row)) for row in rows]))
    most = max(MOST_KIN, len(pool) * MOST_KIN_SHARE)
    shared = [min(own[index] for index in some) if 1 < len(some) <= most else None for some in kin.values()]
    named = {index: key for some, key in zip(kin.values(), shared, strict=True) for index in some if key}
    return [named.get(index, key) for index, key in enumerate(own)]


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts and numbers of a value of a row, those in lists and mappings (messages) too."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part)
    elif value is not None:
        yield str(value)


def _drawn(keys: Sequence[str], fraction: float, seed: str) -> set[str]:
    """Draw each key with probability `fraction` by its own hash, so that rows added later move no other row.

    At least one key is drawn, and at least one is not, where there are two.
    """
    digests = {key: hashlib.sha256(f"{seed} {key}".encode()).hexdigest() for key in keys}
    shares = {key: int(digest[:16], 16) / 2**64 for key, digest in digests.items()}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    drawn = {key for key, share in shares.items() if share < fraction} | {least}
    return drawn - {most}
