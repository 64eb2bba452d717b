"""Files to rows. To add a format: one function, and one line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tunelift.core import parquet_files, text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.registry import Registry
from tunelift.core.text_table import read_text_table

TableRow = dict[str, Any]
Numbered = list[tuple[int, TableRow]]
Columns = Sequence[str] | None
Naming = Callable[[Any], Any]

_TAGGED = ("conllu", "bio", "iob", "iob2")
"""Endings that files of tokens and tags have besides .conll."""

TOKENS, TAGS = "tokens", "tags"
"""The columns of files with a token and its tag on each line."""

GIVEN = "the data given"
"""How messages call rows that were passed as Python objects."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one source and, for messages, its name and where each row stands in it: `line 7`, `item 3`.

    `has_header` says that the columns are called by the first line of a file, which may be none. `files` names the file
    of each row where there are several. `notes` are what a reader of the data should know.
    """

    name: str
    rows: list[TableRow]
    numbers: list[int]
    unit: str = "row"
    path: Path | None = None
    has_header: bool = False
    files: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """Every column that any row has, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def where(self, index: int) -> str:
        """Name the place of row `index` (from 0)."""
        return f"{self.files[index] if self.files else self.name}, {self.unit} {self.numbers[index]}"


def read_file(path: Path, columns: Columns = None, ending: str | None = None) -> Table:
    """Read a file by its ending, or the one given; `columns` names the columns of a csv or tsv file without a header.

    Raises InputError that names the file, the line and what to do.
    """
    ending = ending or path.suffix.lower().removeprefix(".")
    if ending in _TAGGED:
        raise tagged_tokens(str(path))
    if ending == "arrow":
        raise saved_to_disk(str(path))
    if ending not in FORMATS:
        raise InputError(
            f'{path} has the ending "{path.suffix}", which is no known format.',
            fix=f"Known endings: {listed(FORMATS)}.",
        )
    unit, headerless, read = FORMATS.get(ending)
    if columns and not headerless:
        raise InputError(
            f"data.columns names the columns of files without a header, and {path} names its own.",
            fix="Remove data.columns, or use a csv or tsv file.",
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes).", fix="Give a file with at least one row.")
    numbered = read(path, columns)
    if not numbered:
        raise InputError(f"{path} holds no rows.", fix="Give a file with at least one row (below the header, if any).")
    has_header = headerless and not columns
    table = Table(str(path), [row for _, row in numbered], [number for number, _ in numbered], unit, path, has_header)
    if len(table.columns) > text_files.MOST_COLUMNS:
        raise text_files.too_many_columns(str(path), len(table.columns))
    return table


def with_class_names(rows: Iterable[Mapping[str, Any]], features: Any, source: str) -> Iterator[dict[str, Any]]:
    """Yield the rows with names for class numbers, None for -1 (no class).

    `features` are those of `datasets`, or the same as JSON, as a parquet file holds them. Raises InputError for a
    number that has no name; `source` is named in it.
    """
    namings = _of_struct(features) if isinstance(features, Mapping) else {}
    for number, row in enumerate(rows, start=1):
        try:
            yield _in_struct(row, namings)
        except IndexError as error:
            raise InputError(
                f"{source}, row {number}: the class {error.args[0]} has no name in the features.",
                fix="Correct the number or the features, or write the class as text.",
            ) from error


def _of_struct(features: Mapping[str, Any]) -> dict[str, Naming]:
    """Return the naming of each column that holds classes."""
    found = {column: _naming(kind) for column, kind in features.items()}
    return {column: naming for column, naming in found.items() if naming is not None}


def _naming(kind: Any) -> Naming | None:
    if isinstance(kind, Mapping) and not isinstance(kind.get("_type"), str):
        namings = _of_struct(kind)
        return (lambda value: _in_struct(value, namings)) if namings else None
    names = _part(kind, "names")
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return lambda value: _name(value, names)
    part = kind[0] if isinstance(kind, list) and len(kind) == 1 else _part(kind, "feature")
    inner = None if part is None else _naming(part)
    return None if inner is None else lambda value: _each(value, inner)


def _part(kind: Any, name: str) -> Any:
    return kind.get(name) if isinstance(kind, Mapping) else getattr(kind, name, None)


def _name(value: Any, names: list[str] | tuple[str, ...]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        # An older `datasets` wrote a list of structs as a struct of lists.
        return [_name(item, names) for item in value] if isinstance(value, list) else value
    if value >= len(names):
        raise IndexError(value)
    return names[value] if value >= 0 else None


def _each(value: Any, naming: Naming) -> Any:
    return [naming(item) for item in value] if isinstance(value, list) else naming(value)


def _in_struct(value: Any, namings: Mapping[str, Naming]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {**value, **{column: name(value[column]) for column, name in namings.items() if column in value}}


def tagged_tokens(name: str) -> InputError:
    """Return the error for a table of tokens with their tags."""
    return InputError(
        f"{name} holds tokens with a tag each (CoNLL), and this task learns texts.",
        fix="Name a task that tags tokens (--task), with a file that ends in .conll (a token and its tag on each line) "
        "or a column of tokens beside one of tags. Or write one row for each sentence, with what is to be found as "
        'text, such as {"prompt": "Places in: I stayed on Redondo Beach.\\nAnswer:", "completion": " Redondo Beach"}.',
    )


def saved_to_disk(name: str) -> InputError:
    """Return the error for what `datasets` saves with save_to_disk."""
    return InputError(
        f"{name}: Arrow files, which `datasets` saves to go on with itself, are not read here.",
        fix='In Python: datasets.load_from_disk(...).to_parquet("train.parquet"), for each split; or give the data set '
        "itself to tunelift's functions.",
    )


def _read_text_table(path: Path, columns: Columns, delimiter: str | None = None) -> Numbered:
    table = read_text_table(path, delimiter, columns)
    if table.header.count("") > 1:
        raise InputError(
            f"{path}: {table.header.count('')} columns have no name in the header ({listed(table.header)}).",
            fix="Name them, or remove the delimiters at the ends of the lines.",
        )
    return [(line, dict(zip(table.header, fields, strict=True))) for line, fields in table.rows]


def _read_jsonl(path: Path, columns: Columns) -> Numbered:
    example = 'Each line must be one JSON object, such as {"prompt": "...", "completion": "..."}.'
    rows = []
    for number, line in text_files.rows_of(path):
        where = f"{path}, line {number}"
        value = text_files.json_value(line, where, fix=example)
        rows.append((number, text_files.json_object(value, where, example)))
    return rows


def _read_json(path: Path, columns: Columns) -> Numbered:
    """A list of objects, or an object whose "data" is one."""
    shape = 'The file must be [{...}, {...}] or {"data": [{...}, {...}]}; with one object per line, name it .jsonl.'
    value = text_files.json_value(text_files.text_of(path), str(path), fix=shape)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "paragraphs" in value[0]:
        return list(enumerate(_questions(value, str(path)), start=1))
    if not isinstance(value, list):
        raise InputError(f"{path} holds no list of rows.", fix=shape)
    return [(n, text_files.json_object(item, f"{path}, item {n}", shape)) for n, item in enumerate(value, start=1)]


def _questions(articles: Sequence[Any], where: str) -> Iterator[TableRow]:
    """Yield SQuAD's questions, which lie in paragraphs of articles, as rows like those of the Hub's copies."""
    shape = (
        'SQuAD\'s layout is {"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}.'
    )
    try:
        found = (
            (article.get("title"), passage, asked)
            for article in articles
            for passage in article["paragraphs"]
            for asked in passage["qas"]
        )
        for title, passage, asked in found:
            lists = {key: [answer[key] for answer in asked["answers"]] for key in ("text", "answer_start")}
            yield {"id": asked["id"], "title": title, "context": passage["context"]} | asked | {"answers": lists}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: a question that lacks or misplaces {error}.", fix=shape) from error


def _read_parquet(path: Path, columns: Columns) -> Numbered:
    """`datasets` writes into a file's own metadata what its class numbers mean."""
    rows, metadata = parquet_files.rows_and_metadata(path)
    text = metadata.get(b"huggingface")
    value = text_files.json_value(text.decode(), f"{path}, its metadata") if text else None
    info = value.get("info") if isinstance(value, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return list(enumerate(with_class_names(rows, features, str(path)), start=1))


def _read_txt(path: Path, columns: Columns) -> Numbered:
    """One row per line, as other loaders of text files have it: a document that spans lines belongs in jsonl."""
    return [(number, {"text": line}) for number, line in text_files.rows_of(path)]


def _read_conll(path: Path, columns: Columns) -> Numbered:
    """A token and its tag on each line, the first and the last of its columns; a blank line ends a sentence."""
    sentences: Numbered = []
    words, tags, begun, width = list[str](), list[str](), 0, 0
    for number, line in [*text_files.lines_of(path, "\n"), (0, "")]:
        cells = line.rstrip("\r\n").split("\t") if "\t" in line.strip() else line.split()
        if not line.strip() or cells[0] == "-DOCSTART-":
            sentences += [(begun, {TOKENS: words, TAGS: tags})] if words else []
            words, tags = [], []
            continue
        width = width or len(cells)
        if len(cells) < 2 or len(cells) != width:
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns, where {max(width, 2)} are expected.",
                fix="Write a token and its tag on each line, a tab or blanks between, and a blank line behind each "
                "sentence.",
            )
        begun = begun if words else number
        words.append(cells[0].strip())
        tags.append(cells[-1].strip())
    return sentences


Reader = Callable[[Path, Columns], Numbered]

FORMATS: Registry[tuple[str, bool, Reader]] = Registry("data format")
"""By ending: what a row is called in messages, whether `data.columns` may name the columns, the function."""
FORMATS.add("csv", ("line", True, _read_text_table))
FORMATS.add("tsv", ("line", True, partial(_read_text_table, delimiter="\t")))
FORMATS.add("jsonl", ("line", False, _read_jsonl))
FORMATS.add("json", ("item", False, _read_json))
FORMATS.add("parquet", ("row", False, _read_parquet))
FORMATS.add("txt", ("line", False, _read_txt))
FORMATS.add("conll", ("line", False, _read_conll))
