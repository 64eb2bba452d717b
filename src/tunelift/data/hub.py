"""Data sets of the Hub: csv and json as their files have it, everything else by `datasets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tunelift.core import text_files
from tunelift.core.errors import InputError
from tunelift.core.text_table import DELIMITERS
from tunelift.data.formats import Table, read_file
from tunelift.data.shards import Shards

_KINDS = {"datasets.packaged_modules.csv.csv": "csv", "datasets.packaged_modules.json.json": "json"}
_UNDERSTOOD = {
    *("name", "version", "data_dir", "data_files", "description", "features"),
    *("sep", "delimiter", "names", "column_names"),
}
"""What a data set's own settings may say for its files to be read here; with others `datasets` reads them."""


def load_hub(name: str, subset: str | None, revision: str | None) -> Mapping[str, Any]:
    """Return {split: rows} of a data set of the Hub; InputError where it is not there or cannot be reached.

    `datasets` guesses types of csv and json: "007" becomes 7, "NA" nothing, and a row that is too long moves the
    others. So it only finds and downloads such files (run with datasets 5.2.0), and they are read as local ones are.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f'"{name}" is no local file, and a data set of the Hub needs the datasets package.',
            fix="pip install 'tunelift[data]', or check the path.",
        ) from error
    try:
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        found = _files_of(builder)
        return datasets.load_dataset(name, subset, revision=revision) if found is None else found
    except Exception as error:  # the Hub's client raises dozens of unrelated types; all of them end here
        raise _hub_error(name, error) from error


def _files_of(builder: Any) -> dict[str, Shards] | None:
    """Return the files of each split of a csv or json data set, downloaded; None where `datasets` must read them."""
    kind, settings = _KINDS.get(type(builder).__module__), builder.config
    if kind is None or not settings.data_files:
        return None
    usual, names = type(settings)(), [field.name for field in dataclasses.fields(settings)]
    changed = {name for name in names if getattr(settings, name) != getattr(usual, name)}
    if not changed <= _UNDERSTOOD or getattr(settings, "sep", ",") not in DELIMITERS:
        return None
    import datasets

    named = {str(split): list(map(str, files)) for split, files in settings.data_files.items()}
    config = datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options, use_etag=False)
    manager = datasets.DownloadManager(dataset_name=builder.dataset_name, download_config=config)
    fetched = {split: list(map(Path, manager.download_and_extract(files))) for split, files in named.items()}
    if not all(path.is_file() for paths in fetched.values() for path in paths):
        return None  # an archive of several files
    features = settings.features or builder.info.features
    columns, delimiter = getattr(settings, "names", None), getattr(settings, "sep", ",")
    reading = _read_json if kind == "json" else partial(_read_csv, columns=columns, delimiter=delimiter)
    return {split: Shards(tuple(paths), tuple(named[split]), reading, features) for split, paths in fetched.items()}


def _read_json(path: Path) -> Table:
    """Give every row every column, as `datasets` does, so that splits stay as they were drawn."""
    table = read_file(path, ending="jsonl" if _is_one_per_line(path) else "json")
    nothing = dict.fromkeys(table.columns)
    return dataclasses.replace(table, rows=[nothing | row for row in table.rows])


def _read_csv(path: Path, columns: list[str] | None, delimiter: str) -> Table:
    """Make numbers of the columns of which every cell is written as Python writes it, and None of blank cells.

    These are the values that `datasets` gives, so that class numbers are named and splits stay as they were drawn;
    as text they are what the file has.
    """
    table = read_file(path, columns, "tsv" if delimiter == "\t" else "csv")
    found: dict[str, list[Any]] = {}
    for name in table.columns:
        cells = [row[name] for row in table.rows]
        found[name] = _numbers(cells, int) or _numbers(cells, float) or [cell or None for cell in cells]
    rows = [dict(zip(found, cells, strict=True)) for cells in zip(*found.values(), strict=True)]
    return dataclasses.replace(table, rows=rows)


def _is_one_per_line(path: Path) -> bool:
    """Whether a file holds an object on each line, and not a list, or the one object whose "data" is the list."""
    lines = [line.strip() for _, line in islice(text_files.rows_of(path), 2)]
    if not lines or not (lines[0].startswith("{") and lines[0].endswith("}")):
        return False
    return len(lines) > 1 or not isinstance(text_files.json_value(lines[0], str(path)).get("data"), list)


def _numbers(cells: list[str], kind: type[int] | type[float]) -> list[Any] | None:
    try:
        numbers = [kind(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if list(map(str, numbers)) == cells else None


def _hub_error(name: str, error: Exception) -> InputError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())[:400]
    if "DatasetNotFoundError" in kinds and "gated" in text:
        fix = f"Accept its terms at https://huggingface.co/datasets/{name}, then run: hf auth login"
        return InputError(f'The data set "{name}" is gated.', fix=fix)
    if "DatasetNotFoundError" in kinds:
        fix = "Check the spelling; private data sets need: hf auth login. A local path needs the file's ending."
        return InputError(f'"{name}" is neither a local path nor a data set of the Hub.', fix=fix)
    out_of_reach = {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "TimeoutException"}
    if kinds & (out_of_reach | {"LocalEntryNotFoundError"}):
        fix = "Connect, unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or give a local file."
        return InputError(f'"{name}" is no local path, and the Hub cannot be reached ({text}).', fix=fix)
    return InputError(f'The data set "{name}" cannot be loaded: {text}', fix="A configuration is named by data.subset.")
