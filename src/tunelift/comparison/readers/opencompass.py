"""Results of OpenCompass with details (results/MODEL/DATASET.json): for each item whether it is correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.of_tools import held_against, told_apart
from tunelift.comparison.readers.values import Item, items_of, nested, number, scores_of, text
from tunelift.core import files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Scores

_CORRECT = ("correct", "is_correct", "cascade_correct")
"""Where evaluators say that an item is right, in OpenCompass's own order (icl_base_evaluator.py: evaluate, 0.5.4)."""

_PREDICTED, _EXPECTED = ("pred", "predictions", "prediction"), ("answer", "references", "reference", "ref", "gold")
_NO_PROMPTS = "no prompts were found (predictions/MODEL beside results/MODEL), so items are known by id and reference."
_FIX = (
    "OpenCompass writes them with --dump-eval-details; only some evaluators say of each item whether it is correct. "
    "For the others write a csv with the columns id, input, reference, prediction and correct."
)


def is_results(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a file of results or of predictions."""
    details = value.get("details")
    if isinstance(details, list):
        return bool(details) and isinstance(details[0], dict)
    return _is_predictions(value) or (isinstance(details, dict) and bool(_numbered(details)))


def read_results(path: Path, value: Mapping[str, Any]) -> Scores:
    """Turn details into rows, with the prompts of the predictions file where it lies in its place.

    Of n runs each is a row in the item's cluster. OpenCompass's accuracy is 100 times the mean of correct (or its
    average over the runs, under a name of its own); the note says so where no figure of the file is that mean. Raises
    InputError where the details do not say of each item whether it is correct.
    """
    if _is_predictions(value):
        raise InputError(
            f"{path} holds OpenCompass's predictions, without scores.",
            fix="Give the file of the same name under results/MODEL. " + _FIX,
        )
    details = value["details"]
    items = items_of(details, f"{path}, details", "item") if isinstance(details, list) else _numbered(details, path)
    name = next((name for name in _CORRECT if any(name in item.row for item in items)), None)
    if name is None:
        keys = listed(dict.fromkeys(key for item in items for key in item.row))
        raise InputError(f"{path}: its details do not say which items are correct. They have: {keys}.", fix=_FIX)
    runs = max(len(_runs(item, name)) for item in items)
    prompts = _prompts(path, len(items) * runs)
    rows = [
        _row(item, place, run, prompts[run * len(items) + place] if prompts else "", number(correct))
        for place, item in enumerate(items)
        for run, correct in enumerate(_runs(item, name))
    ]
    notes = [] if prompts or "prompt" in items[0].row else [_NO_PROMPTS]
    scores = scores_of(told_apart(rows), path, directions={"correct": True}, made_with={"task": path.stem}, notes=notes)
    return held_against(scores, path, "OpenCompass", _own_figure(value, scores), within=5e-5)


def _is_predictions(value: Mapping[str, Any]) -> bool:
    first = value.get("0")
    return isinstance(first, dict) and "prediction" in first and ("origin_prompt" in first or "gold" in first)


def _numbered(details: Mapping[str, Any], path: Path = Path()) -> list[Item]:
    """Return details as they are written by number: {"type": "GEN", "0": {..}, "1": {..}}."""
    rows = {key: row for key, row in details.items() if key.isdecimal() and isinstance(row, dict)}
    return [Item(f"{path}, item {key}", row) for key, row in rows.items()]


def _runs(item: Item, name: str) -> list[Any]:
    """Return what was said in each run: a list of 0.4 and later, which repeats each item n times, one value before."""
    found = item.row.get(name)
    return found if isinstance(found, list) else [found]


def _row(item: Item, place: int, run: int, prompt: str, correct: float | None) -> dict[str, Any]:
    name = text(item.row.get("example_abbr")) or str(place)
    row = {
        "id": name,
        "input": prompt or text(item.row.get("prompt")) or name,
        "reference": _of_run(item.row, _EXPECTED, run),
        "prediction": _of_run(item.row, _PREDICTED, run),
    }
    if correct is None:
        return row | {"metrics": {}, "unscored": "it is not said whether it is correct"}
    return row | {"metrics": {"correct": correct}}


def _of_run(told: Mapping[str, Any], names: Sequence[str], run: int) -> str:
    value = next((told[name] for name in names if name in told), None)
    if "example_abbr" in told and isinstance(value, list) and run < len(value):
        value = value[run]
    return text(value)


def _prompts(path: Path, count: int) -> list[str]:
    """Return the prompts of all items of the first run, then of the second; none where there is no such file."""
    model = path.absolute().parent
    if model.parent.name != "results":
        return []
    found = files.read_object(model.parent.with_name("predictions") / model.name / path.name)
    if len(found) != count or any(str(place) not in found for place in range(count)):
        return []
    return [text(nested(found, str(place)).get("origin_prompt")) for place in range(count)]


def _own_figure(value: Mapping[str, Any], scores: Scores) -> dict[str, float]:
    """Return the first figure of the file as a share, where none of them, a share or in per cent, is the mean."""
    mean = scores.metrics.get("correct")
    figures = [figure for name, said in value.items() if name != "details" and (figure := number(said)) is not None]
    if mean is None or not figures:
        return {}
    is_mean = any(abs(share - mean) < 5e-5 for figure in figures for share in (figure, figure / 100))
    return {} if is_mean else {"correct": figures[0] / 100}
