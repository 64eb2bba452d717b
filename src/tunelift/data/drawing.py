"""Rows of train that are drawn for validation or test, each by its own content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.duplicates import connected, near_duplicates
from tunelift.data.overlap import folded

MOST_KIN, MOST_KIN_SHARE = 20, 0.1
"""Rows that nearly repeat each other fall on one side where they are 20 or fewer, or a tenth of the rows or fewer."""


def split_off(
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
