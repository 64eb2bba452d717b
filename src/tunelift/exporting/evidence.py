"""What an export's proof rests on, kept beside it: files of rows from which anybody can make the proof again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.core.records import Scores as Rows
from tunelift.exporting.equality import Scores
from tunelift.run_files.layout import FORMAT

FOLDER = "proof"
MODEL, MERGED, EXPORTED, BASE, BASE_THERE = "model", "merged", "exported", "base", "base-there"
"""Sides: the adapter on its base, as stock peft has it, merged in memory, and exported; the base here and there."""

TUNED_ROUNDED, BASE_ROUNDED = "rounded", "base-rounded"
"""The same of the file whose weights are rounded, and of the base rounded alike."""

WHOLE, ROUNDED = "test", "test-exported"
"""The sides of the verdict on the test set: the model as it was tuned, and the file whose weights are rounded."""

VALUES = "values"


def save(folder: Path, side: str, scores: Scores, about: Mapping[str, tuple[str, str]]) -> None:
    """Write one side's numbers, a row for each item; `about` has input and reference of each."""
    rows = []
    for name, values in scores.items():
        asked, reference = about.get(name, ("", ""))
        rows.append({"id": name, "input": asked, "reference": reference, "metrics": {}, VALUES: list(values)})
    Rows(rows, {"format": FORMAT, "items": len(rows)}).save(folder / FOLDER / side)


def read(folder: Path, side: str) -> Scores | None:
    """Return one side's numbers; None where there are none."""
    place = folder / FOLDER / side
    if not place.is_dir():
        return None
    return {str(row["id"]): [float(value) for value in row.get(VALUES, [])] for row in Rows.read(place).rows}


def test_rows(
    names: Sequence[str], scores: Scores, labels: Sequence[str], about: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Return scored rows of test items: their loss, and whether the likeliest of the labels is the right one.

    With labels the scores of each item are under "NAME/INDEX", one for each label.
    """
    rows = []
    for name in names:
        asked, reference = about[name]
        row: dict[str, Any] = {"id": name, "input": asked, "reference": reference}
        if labels:
            sums = {label: math.fsum(scores[f"{name}/{index}"]) for index, label in enumerate(labels)}
            row["prediction"] = max(sums, key=lambda label: sums[label])
            row["label_scores"] = sums
            values = scores[f"{name}/{list(labels).index(reference)}"]
            row["metrics"] = {"accuracy": int(row["prediction"] == reference)}
        else:
            values, row["metrics"] = scores[name], {}
        row["metrics"]["loss"] = -math.fsum(values) / len(values)
        row |= {"log_likelihood": math.fsum(values), "tokens": len(values)}
        rows.append(row)
    return rows


def save_test(folder: Path, side: str, rows: list[dict[str, Any]]) -> None:
    """Write scored rows with their metrics, as any file of scores."""
    higher = {"accuracy": True, "loss": False}
    metrics = {
        name: {
            "value": math.fsum(row["metrics"][name] for row in rows) / len(rows),
            "higher_is_better": higher[name],
            "items": len(rows),
        }
        for name in rows[0]["metrics"]
    }
    Rows(rows, {"format": FORMAT, "items": len(rows), "metrics": metrics}).save(folder / FOLDER / side)
