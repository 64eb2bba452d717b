"""Rows to examples: prompt and completion, an id for each, its cluster; empty rows are left out and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.core.records import Conversation, Example, Options
from tunelift.data.columns import Reading, choose_layout
from tunelift.data.formats import Table
from tunelift.data.template import as_text

LONGEST_NAME = 100
"""Characters of a cluster's name."""

MOST_LABELS = 200
"""More distinct completions than this are answers, not labels."""


def make_examples(table: Table, section: DataSection, reading: Reading) -> tuple[list[Example], Counter[str]]:
    """Return the table's examples in order, and how many rows were left out, by reason.

    `reading` says what a row means to the task. Raises InputError for missing columns, duplicate ids and values that
    are not text.
    """
    layout = choose_layout(table, section, reading)
    columns = table.columns
    problems = [
        f'data.{key} names the column "{name}", which {table.name} does not have.{did_you_mean(name, columns)}'
        for key, name in (("id", section.id), ("group", section.group))
        if name is not None and name not in columns
    ]
    if problems:
        raise InputError(*problems, fix=f"Its columns: {listed(columns)}.")
    ids = _ids(table, section)
    groups = {group_of(row, section, table.where(index)) for index, row in enumerate(table.rows)}
    examples, empty = [], Counter[str]()
    for index, row in enumerate(table.rows):
        where = table.where(index)
        said = layout(row, where)
        if isinstance(said, str):
            empty[said] += 1
            continue
        cluster = group_of(row, section, where)
        if cluster is None and section.group:  # a cluster of its own, called as no group is
            cluster = next(name for n in count() if (name := f"row {ids[index]}{' alone' * n}") not in groups)
        given = said.given
        if isinstance(given, Conversation) and given.turns is None:
            given = replace(given, turns=section.turns)
        cluster = said.cluster if cluster is None else cluster
        examples.append(replace(said, id=ids[index], given=given, cluster=_short(cluster), row=row))
    if section.group is None and len({example.cluster for example in examples}) == len(examples):
        examples = [replace(example, cluster=None) for example in examples]  # none that a layout names is shared
    return examples, empty


def _short(cluster: str | None) -> str | None:
    """Return what a cluster is called: of a text that is long, such as a passage, its beginning and its hash."""
    if cluster is None or len(cluster) <= LONGEST_NAME:
        return cluster
    digest = hashlib.sha256(cluster.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{' '.join(cluster[:40].split())}... {digest[:16]}"


def group_of(row: Mapping[str, Any], section: DataSection, where: str = "a row") -> str | None:
    """Return the row's group, None where it has none; such a row belongs with no other."""
    return as_text(row.get(section.group), where) or None if section.group else None


def looks_like_labels(examples: Sequence[Example]) -> bool:
    """Return whether the completions are few and come again and again: three times each on average."""
    distinct = {example.completion for example in examples}
    texts = all(example.is_text for example in examples)
    return texts and 2 <= len(distinct) <= min(MOST_LABELS, len(examples) // 3)


def unseen_labels(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """Return the completions (labels) that test has and train lacks, sorted; a row's own options are none."""
    known = {example.completion for example in train}
    return sorted({e.completion for e in test if not isinstance(e.given, Options)} - known)


def _ids(table: Table, section: DataSection) -> list[str]:
    """Return one id per row: the column data.id, or a column "id" if it tells all rows apart, or the row's number."""
    column = section.id or "id"
    ids = [as_text(row.get(column), table.where(index)).strip() for index, row in enumerate(table.rows)]
    if section.id is None:
        are_told_apart = all(ids) and len(set(ids)) == len(ids)
        return ids if are_told_apart else [str(number) for number in range(1, len(ids) + 1)]
    fix = "Ids tell items apart; correct them, or leave data.id out to use the row's number."
    first: dict[str, int] = {}
    for index, value in enumerate(ids):
        if not value:
            raise InputError(f'{table.where(index)}: the id column "{column}" is empty.', fix=fix)
        if value in first:
            raise InputError(
                f'{table.where(index)}: the id "{value}" stands at {table.where(first[value])} too.', fix=fix
            )
        first[value] = index
    return ids
