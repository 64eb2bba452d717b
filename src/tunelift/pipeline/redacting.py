"""A copy of a run that can be shared: rows without their texts, or with what must not be seen masked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tunelift import metrics
from tunelift.comparison.differing import differing
from tunelift.comparison.looks_at_test_sets import uncounted
from tunelift.comparison.run_folder import compare_run
from tunelift.config import yaml_text
from tunelift.core import files, progress
from tunelift.core.errors import InputError, TuneliftError
from tunelift.core.records import Scores
from tunelift.pipeline.verifying import untold
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

KEPT = ("metrics", "log_likelihood", "tokens", "counts", "ranks", "relevant", "cut")
"""Of a row: numbers that a verdict is made of."""

TEXTS, IDS = ("input", "reference", "prediction"), ("id", "duplicate_of")
TEXT_DIFFERS = "a text of a row stands there, and another one is made again"
QUOTED = re.compile("['\"]")
IN_QUOTES = re.compile('".*"', re.DOTALL)


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
    own_ids = (yaml_text.read_mapping(source.config)[0].get("data") or {}).get("id") is not None
    matched = dict.fromkeys(patterns, False)
    hidden = Hidden(_masking(matched), rows=rows, own_ids=own_ids)
    files.write_folder(output, lambda staging: _write(source, staging, hidden))
    for write in (write_report, write_markdown, write_card):  # which call the run by its folder's name
        write(output)
    for pattern in (one for one, found in matched.items() if not found):
        progress.note(f"redact: the pattern {pattern!r} matches nothing of this run")
    return untold(output)


def _masking(matched: dict[str, bool]) -> Callable[[str], str]:
    """Return what masks a text by some patterns; it notes in `matched` which of them were found."""
    try:
        known = [re.compile(pattern) for pattern in matched]
    except re.error as error:
        raise InputError(f"A pattern is no regular expression: {error}.", fix="As Python's re has them.") from error
    if wide := [one.pattern for one in known if one.fullmatch("")]:
        raise InputError(
            f"The pattern {wide[0]!r} matches where nothing stands, between any two letters.",
            fix="Let it ask for one character at least: '[0-9]+', not '[0-9]*'.",
        )

    def masked(text: str) -> str:
        for pattern in known:
            text, count = pattern.subn(MASK, text)
            matched[pattern.pattern] |= count > 0
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
        Scores(own, walked(scores.info, hidden.told)).save(folder / place)
    settings = yaml_text.read_mapping(source.config)[0]
    files.write_text(paths.config, yaml_text.dump(walked(settings, hidden.setting)))
    if source.events.is_file():
        events = [walked(event, hidden.told) for _, event in files.read_jsonl(source.events)]
        files.write_text(paths.events, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events))
    facts = walked({key: known[key] for key in FACTS if key in known}, hidden.told)
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
    return [f"comparison.json before: {one}" for one in hidden.apart(told, made)]


def _scored(folder: Path) -> list[Path]:
    """Return the folders of scores below a run, as paths from it."""
    found = [path.parent for side in SIDES for path in sorted((folder / side).rglob(SCORES))]
    return [path.relative_to(folder) for path in found if (path / METRICS).is_file()]


class Hidden:
    """What is done to texts: masked, or where rows are left out, named.

    A name tells which texts are the same, and how long an answer is. Names stand in the texts' order, so that what is
    made of the rows comes out the same. With rows, an id, a label or a slice that a pattern matches gets one too:
    masked, two of them would be one. Ids that are numbers of rows stay; `own_ids` says that ids are a column of the
    data, which may tell of somebody.
    """

    def __init__(self, masked: Callable[[str], str], *, rows: bool, own_ids: bool) -> None:
        self.masked, self.rows, self.own_ids, self.numbers = masked, rows, own_ids, False
        self.names: dict[str, dict[str, str]] = {}
        self.labels: set[str] = set()

    def learn(self, scores: Iterable[Scores], *, numbers: bool) -> None:
        """Name all texts of these; where answers are `numbers`, those stay."""
        texts: dict[str, set[str]] = {"text": set(), "answer": set(), "item": set()}
        for row in (row for one in scores for row in one.rows):
            self.labels.update(row.get("label_scores") or {})
            for key, value in _texts(row):
                texts[key].add(value)
        self.numbers = numbers
        self.names = {kind: _named(kind, sorted(own)) for kind, own in texts.items()}

    def setting(self, text: str) -> str:
        """Return a setting as it may be seen."""
        return self.masked(bare(text))

    def told(self, text: str) -> str:
        """Return what is said of a run or of scores: what is in quotes there may be a row's."""
        return self.setting(text) if self.rows else IN_QUOTES.sub('"..."', bare(text))

    def apart(self, told: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
        """Return where a comparison differs from the one that was made before; without rows, no text of one."""
        known: dict[str, Any] = walked(dict(told), self._said)
        for column, values in (told.get("slices") or {}).items():
            known["slices"][column] = {self.name_of("text", one): walked(values[one], self._said) for one in values}
        found = differing(known, walked(dict(made), self.told), "")
        if self.rows:
            return found
        texts = {text.strip() for names in self.names.values() for text in names if not text.isdigit()} - {""}
        return [TEXT_DIFFERS if any(text in one for text in texts) else one for one in found]

    def _said(self, text: str) -> str:
        return self._id(text) if text in self.names["item"] else self.told(text)

    def _id(self, text: str) -> str:
        """Return an item's id, or that of a training row, as it may be seen."""
        if text.isdigit() and not self.own_ids and not self.rows:
            return text
        return self.name_of("item", text)

    def name_of(self, kind: str, text: str) -> str:
        """Return the name of a text, or with rows the text itself where no pattern matches it."""
        if self.rows and self.masked(text) == text:
            return text
        return self.names[kind].get(text, self.masked(text))

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as it may be seen."""
        own: dict[str, Any] = {key: self._id(row[key]) for key in IDS if isinstance(row.get(key), str)}
        if isinstance(row.get("cluster"), str):
            own["cluster"] = self.name_of("item", row["cluster"])
        for key, kind in (("label_scores", "answer"), ("slices", "text")):
            if not isinstance(row.get(key), Mapping):
                continue
            own[key] = {
                self.name_of(kind, one) if kind == "answer" else one: value
                if kind == "answer"
                else self.name_of(kind, str(value))
                for one, value in row[key].items()
            }
        if self.rows:
            answers = {key: row[key] for key in TEXTS[1:] if isinstance(row.get(key), str)}
            own |= {key: self.name_of("answer", text) for key, text in answers.items() if text in self.labels}
            return {key: row[key] if key in KEPT else walked(row[key], self.masked) for key in row} | own
        found = {key: row[key] for key in (*IDS, "cluster", *TEXTS, *KEPT, "unscored") if key in row} | own
        if QUOTED.search(str(row.get("unscored") or "")):
            found["unscored"] = "the reason quotes the row"
        for key in TEXTS:
            if key in found:  # of several labels or tags a list
                found[key] = walked(found[key], partial(self._text, _kind(key)))
        return found

    def _text(self, kind: str, text: str) -> str:
        return text if self.numbers and _is_number(text) else self.names[kind][text]


def _named(kind: str, texts: Sequence[str]) -> dict[str, str]:
    """Return a name for each text; an answer's has as many bytes, where it is no shorter, as bits are told by them."""
    width = len(str(len(texts)))
    names = {text: f"{kind[0]}{place:0{width}}" for place, text in enumerate(texts)}
    if kind != "answer":
        return names
    return {text: name.ljust(len(text.encode(errors="replace")), ".") for text, name in names.items()}


def _texts(row: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the texts of a row, each with the kind of its name."""
    yield from (("item", row[key]) for key in (*IDS, "cluster") if isinstance(row.get(key), str))
    for key in TEXTS:
        found = list[str]()
        walked(row.get(key), partial(_kept_in, found))
        yield from ((_kind(key), text) for text in found)
    yield from (("answer", label) for label in row.get("label_scores") or {})
    yield from (("text", str(value)) for value in (row.get("slices") or {}).values())


def _kept_in(found: list[str], text: str) -> str:
    found.append(text)
    return text


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
    """Return a value of JSON with every text in it changed but the keys of mappings."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {str(key): walked(one, change) for key, one in value.items()}
    return [walked(one, change) for one in value] if isinstance(value, list | tuple) else value


def bare(text: str) -> str:
    """Return the last part of a path of this machine, or the text as it is."""
    if text.startswith(("/", "~")) and "\n" not in text:
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if re.match(r"[A-Za-z]:\\|\\\\", text) else text
