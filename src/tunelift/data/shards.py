"""Split files of a folder: one file for each split, or the numbered parts that `datasets` and the Hub write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError, listed
from tunelift.data.formats import FORMATS, Columns, Table, read_file, saved_to_disk, with_class_names
from tunelift.data.pictures import PictureFolder, picture_splits
from tunelift.untrusted.files import inside

SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_PART = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]{16})?")


@dataclass(frozen=True, slots=True)
class Shards:
    """The files that hold the rows of one split, in order.

    `names` are what messages call them, where that is not their path; `reading` reads one where its ending does not
    say how; `features` name its class numbers.
    """

    paths: Sequence[Path]
    names: Sequence[str] = ()
    reading: Callable[[Path], Table] | None = None
    features: Any = None

    def read(self, name: str, columns: Columns) -> Table:
        """Return the rows of all files as one table called `name`; messages name the file that a row stands in."""
        reading = self.reading or partial(read_file, columns=columns)
        tables = [reading(path) for path in self.paths]
        names = self.names or [table.name for table in tables]
        return Table(
            name,
            [row for table in tables for row in with_class_names(table.rows, self.features, table.name)],
            [number for table in tables for number in table.numbers],
            tables[0].unit,
            has_header=tables[0].has_header,
            files=[named for named, table in zip(names, tables, strict=True) for _ in table.rows],
        )


def folder_splits(folder: Path, subset: str | None = None) -> dict[str, Path | Shards | PictureFolder]:
    """Return {split: file or files, or pictures} of a folder, or of its folder for the subset or `data`, as on the Hub.

    Raises InputError for no split files, several for one split, and numbered parts of which some are missing.
    """
    inner = [name for name in (subset, "", "data") if name is not None and inside(folder, name).is_dir()]
    for place in (folder / name for name in inner):
        if splits := _splits_of(place):
            return dict(splits)
    if pictures := picture_splits(folder):
        return dict(pictures)
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise saved_to_disk(str(folder))
    known = _known(folder)
    below = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
    scripts = " Scripts in it are never run." if any(folder.glob("*.py")) else ""
    names = listed(path.name for path in known) or "nothing"
    raise InputError(
        f"{folder} holds no split files; of known formats it has: {names}.{scripts}",
        fix="Name one of its files, or call them train, validation and test (.csv, .jsonl, ...)."
        + f" Of its folders --subset names one: {listed(below)}." * bool(below),
    )


def _splits_of(folder: Path) -> dict[str, Path | Shards]:
    known = _known(folder)
    splits: dict[str, Path | Shards] = {}
    for role, aliases in SPLIT_NAMES.items():
        whole = [path for path in known if path.stem.lower() in aliases]
        parts = [path for path in known if (part := _PART.fullmatch(path.stem.lower())) and part["split"] in aliases]
        if len(whole) > 1 or (whole and parts):
            raise InputError(
                f"{folder} holds several files for {role}: {listed(path.name for path in [*whole, *parts])}.",
                fix="Keep one of them there, or name the files in data.train, data.validation and data.test.",
            )
        if whole:
            splits[role] = inside(folder, whole[0].name)
        elif parts:
            _check_parts(folder, role, parts)
            splits[role] = Shards(tuple(inside(folder, path.name) for path in parts))
    return splits


def _check_parts(folder: Path, role: str, parts: Sequence[Path]) -> None:
    """Refuse a split of which a part is missing, or there twice."""
    found = [_PART.fullmatch(path.stem.lower()) for path in parts]
    counts = {(part["split"], part["count"]) for part in found if part}
    numbers = sorted(int(part["number"]) for part in found if part)
    expected = list(range(int(next(iter(counts))[1])))
    if len(counts) == 1 and numbers == expected:
        return
    missing = sorted(set(expected) - set(numbers))
    problem = f"{len(missing)} of {len(expected)} are missing" if len(counts) == 1 and missing else "they do not fit"
    raise InputError(
        f"{folder}: the parts of {role} are not whole: {problem} ({listed(path.name for path in parts)}).",
        fix="Put all parts of one split there, and of no other, or name one file in data.train.",
    )


def _known(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower().removeprefix(".") in FORMATS]
