"""Train, validation and test: who gets which rows, without duplicates and without leaks between them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example
from tunelift.data.columns import Reading, notes_on_columns
from tunelift.data.counts import DataReport, SplitCounts
from tunelift.data.duplicates import Match, connected, near_duplicates, normalised
from tunelift.data.examples import group_of, make_examples
from tunelift.data.hygiene import Leak, compared_texts, hygiene
from tunelift.data.overlap import Held, folded
from tunelift.data.sources import fingerprint, read_rows, resolve_splits, source_name

ROLES = ("train", "validation", "test")
DEFAULT_TEST_FRACTION = 0.2
MOST_KIN, MOST_KIN_SHARE = 20, 0.1
"""Rows that nearly repeat each other fall on one side where they are 20 or fewer, or a tenth of the rows or fewer."""
MOST_NEAR = 0.5
"""Rows that nearly repeat test, or validation, are removed where they are half of train or fewer."""


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


@dataclass(slots=True)
class _Source:
    """Where a role's rows come from: a source of their own, or a fraction of train."""

    source: Any = None
    name: str | None = None
    fraction: float | None = None


class _Loader:
    """One reading of the data: sources, then rows, then the splits between them."""

    def __init__(self, section: DataSection, reading: Reading, roles: frozenset[str]) -> None:
        self.section = section
        self.reading = reading
        self.roles = roles
        self.report = DataReport()
        self.rows: dict[str, list[Example]] = {}
        self.leaks: list[Leak] = []
        self.duplicate_of: dict[str, str] = {}
        self.repeats: list[Example] = []
        self.drawn_with_kin: set[str] = set()

    def load(self) -> Splits:
        sources = self._sources()
        for role in ROLES:
            source = sources.get(role)
            if source and source.fraction is None and self._is_needed(role, sources):
                self._read(role, source)
        for role in ("test", "validation"):
            source = sources.get(role)
            if source and source.fraction is not None and "train" in self.rows:
                self._split_off(role, source.fraction)
        self._remove_overlap()
        kept = {role: self._capped(role) for role in ROLES if role in self.roles and role in self.rows}
        self._check(kept)
        self.report.splits = {role: self.report.splits[role] for role in kept}
        tested = {example.id for example in kept.get("test", [])}
        duplicate_of = {test: row for test, row in self.duplicate_of.items() if test in tested}
        splits = Splits(**kept, report=self.report, leaks=self.leaks, duplicate_of=duplicate_of)
        splits.repeats = self.repeats
        self.report.hygiene = hygiene(splits)
        return splits

    def _sources(self) -> dict[str, _Source]:
        """Settle where each role's rows come from, before anything but the list of splits is read."""
        section = self.section
        found = {role: _source(getattr(section, role)) for role in ROLES if getattr(section, role) is not None}
        own = resolve_splits(section.train, subset=section.subset) if section.train is not None else None
        if own is not None:
            self._use_splits(own, found)
        if "test" in self.roles and "test" not in found:
            self._default_test(found)
        if "train" in self.roles and "train" not in found:
            raise InputError("There is no training data: data.train is not set.", fix="Give a file: --data train.csv")
        return found

    def _use_splits(self, own: dict[str, Any], found: dict[str, _Source]) -> None:
        """Let the splits of a folder or a Hub data set stand for what the settings leave open."""
        name = source_name(self.section.train)
        if "train" not in own and len(own) > 1 and "train" in self.roles:
            raise InputError(f"{name} has no train split; it has {listed(own)}.", fix="Set data.train to a file.")
        del found["train"]
        if "train" in own or len(own) == 1:
            found["train"] = _Source(own.get("train", next(iter(own.values()))), f"{name} (train)")
        if "validation" in own and "validation" not in self.section.model_fields_set:
            found["validation"] = _Source(own["validation"], f"{name} (validation)")
        if "test" in own and "test" not in found:
            found["test"] = _Source(own["test"], f"{name} (test)")

    def _default_test(self, found: dict[str, _Source]) -> None:
        if "train" not in found or "train" not in self.roles:
            raise InputError(
                "There is no test data: data.test is not set.",
                fix=f"Give a file, or the fraction of train that tuning held out (run: {DEFAULT_TEST_FRACTION}).",
            )
        found["test"] = _Source(fraction=DEFAULT_TEST_FRACTION)
        self.report.notes.append(f"data.test is not set: {DEFAULT_TEST_FRACTION:.0%} of train is split off for it")

    def _is_needed(self, role: str, sources: dict[str, _Source]) -> bool:
        """A source is read for its own role, and train also where a role that was asked for is a part of it."""
        split_off = any(sources[other].fraction is not None for other in self.roles if other in sources)
        return role in self.roles or (role == "train" and split_off)

    def _read(self, role: str, source: _Source) -> None:
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
        by_group = self.section.group is not None
        keys = [str(example.cluster) for example in pool] if by_group else self._keys(pool)
        if not by_group:
            self.drawn_with_kin.add(role)
        taken = _drawn(keys, fraction, f"{self.section.seed} {role}")
        if not taken or len(taken) == len(set(keys)):
            what = f'values of "{self.section.group}"' if by_group else "different rows"
            raise InputError(
                f"No {role} can be split off train: it has too few {what} ({len(set(keys))}).",
                fix=f"Give data.{role} a file of its own, or train more rows.",
            )
        self.rows[role] = [example for example, key in zip(pool, keys, strict=True) if key in taken]
        self.rows["train"] = [example for example, key in zip(pool, keys, strict=True) if key not in taken]
        self.report.splits[role] = SplitCounts(read=len(self.rows[role]))
        self.report.splits["train"].split_off += len(self.rows[role])

    def _keys(self, pool: Sequence[Example]) -> list[str]:
        """Return one key for each row, the same for rows that nearly repeat each other: the first of theirs.

        Rows are compared as they stand in the file, so that the template does not matter. More kin than a tenth of the
        rows are no copies of each other but made from one template; they are told apart.
        """
        own = [self._row_key(example) for example in pool]
        if not self.section.deduplicate:
            return own
        kin = connected(len(pool), near_duplicates([self._row_text(example.row) for example in pool]))
        most = max(MOST_KIN, len(pool) * MOST_KIN_SHARE)
        shared = [min(own[index] for index in rows) if 1 < len(rows) <= most else None for rows in kin.values()]
        named = {index: key for rows, key in zip(kin.values(), shared, strict=True) for index in rows if key}
        return [named.get(index, key) for index, key in enumerate(own)]

    def _row_text(self, row: Any) -> str:
        values = [row[name] for name in sorted(row) if name not in ("id", self.section.id)]
        return "\n".join(text for value in values for text in _texts_in(value))

    def _row_key(self, example: Example) -> str:
        """Return the row without its id, case and blanks folded: the same under every template, and for equal rows."""
        values = {name: value for name, value in example.row.items() if name not in ("id", self.section.id)}
        return folded(json.dumps(values, sort_keys=True, ensure_ascii=False, default=str))

    def _remove_overlap(self) -> None:
        """Remove from train and validation what test holds, then from train what validation holds; groups whole.

        Say so where there is no test to look at.
        """
        test = self.rows.get("test", [])
        if not test and "train" in self.roles:
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
        others = test + ([] if "validation" in self.drawn_with_kin else validation)
        if not both or not others:
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
        if "validation" in self.drawn_with_kin and self._are_most("validation", len(equal), "the same prompt as"):
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

    def _capped(self, role: str) -> list[Example]:
        examples, limit = self.rows[role], getattr(self.section, f"max_{role}")
        counts = self.report.splits[role]
        if limit is not None and limit < len(examples):
            drawn = sorted(random.Random(f"{self.section.seed} {role}").sample(range(len(examples)), limit))
            counts.capped, examples = len(examples) - limit, [examples[index] for index in drawn]
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


def _texts_in(value: Any) -> Iterator[str]:
    """Yield the texts and numbers of a value of a row, those in lists and mappings (messages) too."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part)
    elif value is not None:
        yield str(value)


def _source(value: Any) -> _Source:
    """Tell a fraction (a number; the schema has checked that it lies between 0 and 1) from a source."""
    return _Source(fraction=value) if isinstance(value, int | float) else _Source(value)


def _drawn(keys: Sequence[str], fraction: float, seed: str) -> set[str]:
    """Draw each key with probability `fraction` by its own hash, so that rows added later move no other row.

    At least one key is drawn, and at least one is not, where there are two.
    """
    shares = {key: _share(f"{seed} {key}") for key in keys}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    drawn = {key for key, share in shares.items() if share < fraction} | {least}
    return drawn - {most}


def _share(text: str) -> float:
    """Return a number in [0, 1) that follows from the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
