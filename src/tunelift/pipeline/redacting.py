"""A copy of a run that can be shared: rows without their texts, or with what must not be seen masked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tunelift import metrics
from tunelift.comparison.looks_at_test_sets import uncounted
from tunelift.comparison.run_folder import compare_run
from tunelift.config import yaml_text
from tunelift.core import files
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Scores
from tunelift.pipeline.verifying import differing, untold
from tunelift.reporting import write_card, write_markdown, write_report
from tunelift.run_files.layout import METRICS, SCORES, RunPaths

MASK = "[masked]"
SIDES = ("base", "tuned", "baselines", "forgetting", "full_precision", "seeds")
"""Folders of scores; others, the adapter and exports among them, stay where they are."""

FACTS = (
    *("format", "date", "status", "tunelift", "started", "versions", "machine", "seconds", "seeds", "model", "task"),
    *("dtype", "dtype_reason", "adapter", "train", "fast_paths"),
)
"""Of the manifest: what tells of the run, and nothing of its rows."""

KEPT = ("metrics", "log_likelihood", "tokens", "counts", "ranks", "relevant", "cut", "unscored")
"""Of a row: numbers that a verdict is made of, and why there are none."""

TEXTS, GROUPS = ("input", "reference", "prediction"), ("id", "cluster", "duplicate_of")
QUOTED = re.compile("['\"]")


def redact(run: str | Path, output: str | Path, *, rows: bool = True, patterns: Sequence[str] = ()) -> list[str]:
    """Write a copy of a run without the texts of its rows, or with what `patterns` match masked; `rows` keeps texts.

    Report, card and comparison are made again of the copy, whose manifest says what was done. Returns what cannot be
    made again of it, each as a sentence. Raises InputError for a pattern that is none, and where nothing would be done.
    """
    source, output = RunPaths(run), Path(output)
    if rows and not patterns:
        raise InputError("Nothing is to be left out.", fix="Give --no-rows, or a pattern: --mask '[0-9]{6,}'.")
    if not source.manifest.is_file() or not source.comparison.is_file():
        raise InputError(f"{run} is no run that came to a verdict.", fix="Give the folder of tunelift run.")
    if output.exists():
        raise InputError(f"{output} is there already.", fix="Name another folder with --output, or remove that one.")
    hidden = Hidden(_masking(patterns), rows=rows)
    files.write_folder(output, lambda staging: _write(source, staging, hidden))
    for write in (write_report, write_markdown, write_card):  # which call the run by its folder's name
        write(output)
    return untold(output)


def _masking(patterns: Sequence[str]) -> Callable[[str], str]:
    try:
        known = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise InputError(f"A pattern is no regular expression: {error}.", fix="As Python's re has them.") from error

    def masked(text: str) -> str:
        for pattern in known:
            text = pattern.sub(MASK, text)
        return text

    return masked


def _write(source: RunPaths, folder: Path, hidden: Hidden) -> None:
    paths, known = RunPaths(folder), files.read_manifest(source.manifest)
    found = {place: Scores.read(source.folder / place) for place in _scored(source.folder)}
    hidden.learn(found.values(), numbers=_answers_are_numbers(found.values()))
    count = 0
    for place, scores in found.items():
        own = [hidden.row(row) for row in scores.rows]
        count += sum(one != row for one, row in zip(own, scores.rows, strict=True))
        Scores(own, walked(scores.info, bare)).save(folder / place)
    settings = yaml_text.read_mapping(source.config)[0]
    files.write_text(paths.config, yaml_text.dump(walked(settings, lambda text: hidden.masked(bare(text)))))
    if source.events.is_file():
        files.write_text(paths.events, source.events.read_text(encoding="utf-8"))
    facts = walked({key: known[key] for key in FACTS if key in known}, bare)
    facts["proofs"] = [{key: one.get(key) for key in ("name", "passed")} for one in known.get("proofs") or []]
    note = f"{'Parts of texts were masked' if hidden.rows else 'Texts of rows were left out'} in {count} rows "
    note += "before this was shared."
    facts["data"] = {"splits": (known.get("data") or {}).get("splits") or {}, "notes": [note]}
    files.write_json(paths.manifest, facts)
    lost = _compared(paths, files.read_object(source.comparison), hidden)
    redacted = {"rows": "kept" if hidden.rows else "left out", "changed": count, "said": note, "lost": lost}
    files.write_json(paths.manifest, facts | {"redacted": redacted})


def _compared(paths: RunPaths, told: Mapping[str, Any], hidden: Hidden) -> list[str]:
    """Compare the copy, and say where that gives something else than the run has."""
    try:
        with uncounted():
            made = compare_run(paths.folder).to_dict() | {"looks": told.get("looks")}
    except TuneliftError as error:
        raise InputError(f"Nothing of what is left can be compared: {error}", fix="Mask less.") from error
    files.write_json(paths.comparison, made)
    return [f"comparison.json before: {one}" for one in differing(walked(dict(told), hidden.known), made, "")]


def _scored(folder: Path) -> list[Path]:
    """Return the folders of scores below a run, as paths from it."""
    found = [path.parent for side in SIDES for path in sorted((folder / side).rglob(SCORES))]
    return [path.relative_to(folder) for path in found if (path / METRICS).is_file()]


class Hidden:
    """What is done to texts: masked, or where rows are left out, named.

    A name tells which texts are the same, and how long an answer is. Names stand in the texts' order, so that what is
    made of the rows comes out the same. Ids that are numbers stay.
    """

    def __init__(self, masked: Callable[[str], str], *, rows: bool) -> None:
        self.masked, self.rows, self.numbers = masked, rows, False
        self.names: dict[str, dict[str, str]] = {}

    def learn(self, scores: Iterable[Scores], *, numbers: bool) -> None:
        """Name all texts of these; where answers are `numbers`, those stay."""
        texts: dict[str, set[str]] = {"text": set(), "answer": set(), "item": set()}
        for row in (row for one in scores for row in one.rows):
            for key, value in _texts(row):
                texts[key].add(value)
        self.numbers = numbers
        self.names = {kind: _named(kind, sorted(own)) for kind, own in texts.items()}

    def known(self, text: str) -> str:
        """Return a text that is not of a row: an item's id there gets the name that it has in the rows."""
        return self._item(text) if text in self.names["item"] else self.masked(text)

    def _item(self, text: str) -> str:
        if text.isdigit() or (self.rows and self.masked(text) == text):
            return text
        return self.names["item"][text]

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as it may be seen."""
        own = {key: self._item(row[key]) for key in GROUPS if isinstance(row.get(key), str)}
        if self.rows:
            return {key: row[key] if key in KEPT else walked(row[key], self.masked) for key in row} | own
        found = {key: row[key] for key in (*GROUPS, *TEXTS, *KEPT) if key in row} | own
        if QUOTED.search(str(row.get("unscored") or "")):
            found["unscored"] = "the reason quotes the row"
        for key in TEXTS:
            if isinstance(found.get(key), str) and not (self.numbers and _is_number(found[key])):
                found[key] = self.names[_kind(key)][found[key]]
        for key, kind in (("label_scores", "answer"), ("slices", "text")):
            if not isinstance(row.get(key), Mapping):
                continue
            names = self.names[kind]
            found[key] = {
                names[one] if kind == "answer" else one: value if kind == "answer" else names[str(value)]
                for one, value in row[key].items()
            }
        return found


def _named(kind: str, texts: Sequence[str]) -> dict[str, str]:
    """Return a name for each text; an answer's has as many bytes, where it is no shorter, as bits are told by them."""
    width = len(str(len(texts)))
    names = {text: f"{kind[0]}{place:0{width}}" for place, text in enumerate(texts)}
    if kind != "answer":
        return names
    return {text: name.ljust(len(text.encode(errors="replace")), ".") for text, name in names.items()}


def _texts(row: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the texts of a row, each with the kind of its name."""
    yield from (("item", row[key]) for key in GROUPS if isinstance(row.get(key), str))
    yield from ((_kind(key), row[key]) for key in TEXTS if isinstance(row.get(key), str))
    yield from (("answer", label) for label in row.get("label_scores") or {})
    yield from (("text", str(value)) for value in (row.get("slices") or {}).values())


def _answers_are_numbers(scores: Iterable[Scores]) -> bool:
    """Tell whether answers are numbers, of which correlations are made."""
    named = {name for one in scores for name in one.info.get("metrics") or {}}
    return any(metrics.METRICS.get(name).needs == "numbers" for name in named if name in metrics.METRICS)


def _kind(key: str) -> str:
    return "text" if key == "input" else "answer"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def walked(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value of JSON with every text in it changed, keys of mappings too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): walked(one, change) for key, one in value.items()}
    return [walked(one, change) for one in value] if isinstance(value, list | tuple) else value


def bare(text: str) -> str:
    """Return the last part of a path of this machine, or the text as it is."""
    if text.startswith(("/", "~")) and "\n" not in text:
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if re.match(r"[A-Za-z]:\\|\\\\", text) else text
