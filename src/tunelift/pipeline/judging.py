"""Answers of base and tuned judged: by a person alone, by a function, or by a judge that a person's labels correct.

The person gets a sheet of items in an order drawn by seed, in which nobody sees whose answer is whose. What is labelled
is its beginning, and so a random draw.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelift.comparison.corrected import FEWEST_CLUSTERS, FEWEST_LABELS
from tunelift.comparison.effect import members
from tunelift.comparison.judged import PERSON, Asked, Evidence, Marks, Wins, conclusion
from tunelift.comparison.pairing import Side, clusters_of, pair, read_side
from tunelift.config.schema import EndpointSection
from tunelift.core import files, progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import as_text
from tunelift.core.text_table import read_text_table
from tunelift.evaluation import endpoint
from tunelift.evaluation.judging import LEAST, MOST, Judged, marks, votes
from tunelift.metrics import Answer, resolve
from tunelift.reporting import write_markdown, write_report
from tunelift.run_files.layout import BASE, TUNED, RunPaths

COLUMNS = ("id", "input", "reference", "answer A", "answer B")
BETTER, MARK = ("better",), ("mark A", "mark B")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute: answers are anybody's text."""


@dataclass(frozen=True, slots=True)
class Question:
    """How answers are judged. `by` is "person", a metric, FILE.py:FUNCTION, or None for the judge at an address."""

    by: str | None = None
    criterion: str = ""
    marks: bool = False
    seed: int = 0
    sheet: int = 50
    cache: bool = True

    @property
    def asked(self) -> Asked:
        """Return what a label says."""
        return Marks() if self.marks else Wins()


def judge(
    sources: Sequence[str | Path], question: Question, settings: EndpointSection, labels: Path | None
) -> dict[str, Any] | None:
    """Return what the judged answers of a run folder, or of two files of rows, show; None where a sheet was written.

    That of a run is kept in its folder, and stands in its report. Raises InputError where nothing can be judged.
    """
    if question.by is None:
        endpoint.check(settings)
    run = RunPaths(sources[0]) if len(sources) == 1 else None
    base, tuned = (read_side(one, name) for one, name in zip(_sides(sources), (BASE, TUNED), strict=True))
    items, equal = _items(base, tuned)
    random.Random(f"{question.seed} judged").shuffle(items)
    if question.by not in (None, PERSON):
        told = _by_function(str(question.by), items, equal, (base, tuned), question)
    elif labels is None:
        raise InputError(
            "A judge's scores are not given without a person's labels, which say how far it is off.",
            fix="Name a file: --labels labels.csv. Where there is none, a sheet to be filled in is written there.",
        )
    elif not labels.exists():
        _write_sheet(labels, items, question)
        return None
    else:
        told = _by_judge(items, equal, _read_sheet(labels, items, question), question, settings)
    if run is not None and run.manifest.is_file():
        files.write_json(run.judged, told)
        write_report(run.folder)
        write_markdown(run.folder)
    return told


def _sides(sources: Sequence[str | Path]) -> tuple[str | Path, str | Path]:
    if len(sources) == 2:
        return sources[0], sources[1]
    run = RunPaths(sources[0])
    if not run.base.is_dir() or not run.tuned.is_dir():
        raise InputError(
            f"{sources[0]} is no run folder with both sides.", fix="Give a run folder, or two files of rows."
        )
    return run.base, run.tuned


def _items(base: Side, tuned: Side) -> tuple[list[Judged], int]:
    """Return the items whose answers differ, each once, by id, and how many were answered alike."""
    found, equal = dict[str, Judged](), 0
    pairs, _ = pair(base, tuned, declared=True)
    if any("rejected" in row or "liked" in row for one in pairs for row in (one.base, one.tuned)):
        raise InputError(
            "These rows hold no answers of the models': which of two given ones is likelier was measured.",
            fix="Measure answers, with metrics such as --metrics rouge_l, and judge those.",
        )
    if not any(row.get("prediction") for one in pairs for row in (one.base, one.tuned)):
        raise InputError("The rows hold no answers (prediction).", fix="Measure answers in words, such as rouge_l.")
    labels = clusters_of(pairs)
    cluster = dict(zip(dict.fromkeys(one.item for one in pairs), labels or (), strict=False))
    for one in pairs:
        texts = [as_text(row.get("prediction") or "") for row in (one.base, one.tuned)]
        if texts[0].strip() == texts[1].strip():
            equal += one.item == one.id
        elif one.item == one.id:  # of rows of one content the first
            told = as_text(one.base["input"]), as_text(one.base["reference"])
            found[one.id] = Judged(one.id, *told, texts[0], texts[1], cluster.get(one.id, one.id))
    if len(found) < FEWEST_LABELS:
        raise InputError(
            f"Base and tuned answer {len(found)} items differently; at least {FEWEST_LABELS} are needed.",
            fix="Measure more test rows.",
        )
    return [found[key] for key in sorted(found)], equal


def _by_function(
    by: str, items: Sequence[Judged], equal: int, sides: Sequence[Side], question: Question
) -> dict[str, Any]:
    """Let the answer win that a metric finds better; of what it finds alike neither does."""
    (metric,) = resolve([by])
    if metric.score is None or metric.needs not in ("text", "label"):
        raise InputError(f"{by} gives no number for an answer alone.", fix="Take a metric of an answer's text.")
    if question.marks:
        raise InputError("Marks are given by a person and a judge.", fix="Leave --marks out.")
    values = []
    for item in items:
        row = {name: value for name, value in sides[0].rows[item.id].items() if name in ("id", "input", "reference")}
        base, tuned = (metric.score(Answer(text, item.reference, row=row)) for text in (item.base, item.tuned))
        values.append(0.5 + 0.5 * np.sign(tuned - base) * (1 if metric.higher_is_better else -1))
    clusters = _clusters(items, len(items))
    found = Evidence(len(items), np.array(values), np.empty(0), np.zeros(len(items)), equal=equal, clusters=clusters)
    return conclusion(question.asked, found, by)


def _by_judge(
    items: Sequence[Judged], equal: int, labels: Sequence[float], question: Question, settings: EndpointSection
) -> dict[str, Any]:
    if len(labels) < FEWEST_LABELS:
        raise InputError(
            f"The sheet holds {len(labels)} labels; at least {FEWEST_LABELS} are needed.", fix="Fill in more of it."
        )
    longer = np.array([np.sign(len(item.tuned) - len(item.base)) for item in items], dtype=float)
    own, empty, clusters = np.array(labels), np.empty(0), _clusters(items, len(labels))
    if question.by == PERSON:
        alone = Evidence(len(items), own, empty, longer, equal=equal, clusters=clusters)
        return conclusion(question.asked, alone, PERSON)
    ask = marks if question.marks else votes
    found, silent = list[tuple[float, float]](), 0
    # The labelled ones first: a judge that does not know what the person does is seen before the rest is paid for.
    for title, some in (("labelled items", items[: len(own)]), ("other items", items[len(own) :])):
        if some:
            said, without = ask(settings, question.criterion, some, f"judge: {title}", cache=question.cache)
            found, silent = found + said, silent + without
        if title == "labelled items":
            first = Evidence(len(own), own, _scores(found, question), longer[: len(own)])
            same = conclusion(question.asked, first, "judge")["agreement"]
            progress.note(f"judge: on the person's side for {same['same']:.0%} of {same['labels']} labels "
                          f"({same['by_chance']:.0%} by chance)")  # fmt: skip
    places = None if question.marks else np.array(found)
    evidence = Evidence(len(items), own, _scores(found, question), longer, places, equal, silent, clusters)
    told = conclusion(question.asked, evidence, f"{settings.served_model}, corrected by a person's labels")
    return told | {"criterion": question.criterion, "address": settings.address, "model": settings.served_model}


def _clusters(items: Sequence[Judged], labelled: int) -> NDArray[np.intp] | None:
    """Return the clusters of the items by number; raise InputError where the labelled ones are of too few.

    None where no two items share one.
    """
    numbers, count = members([item.cluster for item in items])
    if count == len(items):
        return None
    if (few := len(np.unique(numbers[:labelled]))) < FEWEST_CLUSTERS:
        raise InputError(
            f"The labelled items are of {few} clusters; at least {FEWEST_CLUSTERS} are needed.",
            fix="Label more items, or measure rows of more clusters.",
        )
    return numbers


def _scores(found: Sequence[tuple[float, float]], question: Question) -> Any:
    both = np.array(found, dtype=float)
    return both[:, 1] - both[:, 0] if question.marks else both.mean(axis=1)


def _write_sheet(path: Path, items: Sequence[Judged], question: Question) -> None:
    """Write the items that a person is to label, whose answer is whose left out."""
    if path.suffix != ".csv":
        raise InputError(
            f"{path} does not exist, and a sheet is written as .csv.", fix="Name a file that ends in .csv."
        )
    out, some = io.StringIO(), items[: question.sheet]
    sheet = csv.writer(out)
    wanted = MARK if question.marks else BETTER
    sheet.writerow([*COLUMNS, *wanted])
    for item in some:
        sheet.writerow(
            [*map(_cell, (item.id, item.input, item.reference, *_shown(item, question))), *("" for _ in wanted)]
        )
    files.write_text(path, out.getvalue())
    how = (
        f'"{MARK[0]}" and "{MARK[1]}" with a mark from {LEAST} to {MOST}' if question.marks
        else 'the column "better" with A, B or tie'
    )  # fmt: skip
    progress.note(
        f"{path} has {len(some)} of {len(items)} items to be labelled. Fill in {how}, from the top, {FEWEST_LABELS} at "
        f"least, leaving none out; then give the same command."
    )


def _shown(item: Judged, question: Question) -> tuple[str, str]:
    """Return both answers in an order that only seed and id tell."""
    turned = hashlib.sha256(f"{question.seed} {item.id}".encode()).digest()[0] % 2
    return (item.base, item.tuned) if turned else (item.tuned, item.base)


def _cell(text: str) -> str:
    text = text.replace("\0", "\N{SYMBOL FOR NULL}")  # which models write, and no file of text may hold
    return f"'{text}" if text.startswith(FORMULA) else text


def _read_sheet(path: Path, items: Sequence[Judged], question: Question) -> list[float]:
    """Return the labels of the first items; raise InputError for a sheet of other answers, or one with gaps."""
    table, wanted = read_text_table(path), MARK if question.marks else BETTER
    if lacking := [name for name in ("id", "answer A", "answer B", *wanted) if name not in table.header]:
        raise InputError(
            f"{path} has no column {listed(map(repr, lacking))}; it has {listed(map(repr, table.header))}.",
            fix="Name a file that does not exist: a sheet is written there.",
        )
    found, gap = list[float](), ""
    for number, (line, fields) in enumerate(table.rows):
        row, where = dict(zip(table.header, fields, strict=True)), f"{path}, line {line}"
        item = items[number] if number < len(items) else None
        told = [_folded(row[name]) for name in ("id", "answer A", "answer B")]
        if item is None or told != [_folded(_cell(text)) for text in (item.id, *_shown(item, question))]:
            raise InputError(
                f"{where}: this is not the item, or not the answers, that stand there for these rows and this seed.",
                fix="Labels are of one pair of models. Write a new sheet: name a file that does not exist.",
            )
        cells = [row[name].strip() for name in wanted]
        if not any(cells):
            gap = gap or where
        elif gap:
            raise InputError(
                f"{gap}: no label, and there are some below it. What is left out by choice is no random draw.",
                fix='Fill it in, with "tie" where neither is better.',
            )
        else:
            found.append(_label(cells, item, question, where))
    return found


def _label(cells: Sequence[str], item: Judged, question: Question, where: str) -> float:
    tuned_first = _shown(item, question)[0] == item.tuned
    if question.marks:
        if not all(cell in map(str, range(LEAST, MOST + 1)) for cell in cells):
            raise InputError(f"{where}: {cells} are no marks from {LEAST} to {MOST}.", fix="Give both answers one.")
        first, second = map(float, cells)
        return first - second if tuned_first else second - first
    known: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}
    if cells[0].casefold() not in known:
        raise InputError(f"{where}: {cells[0]!r} says nothing of which is better.", fix="Write A, B or tie.")
    value = known[cells[0].casefold()]
    return value if tuned_first else 1 - value


def _folded(text: str) -> str:
    """Return text as spreadsheets give it back: line ends and blanks at the ends are theirs."""
    return " ".join(text.split())
