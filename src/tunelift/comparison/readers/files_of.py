"""Which file of a folder is meant: a tool's folder may hold one for each task and run, and others beside them."""

from __future__ import annotations

import re
from pathlib import Path

from tunelift.core.errors import InputError, listed

_NAMES = (
    r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.:-]+\.jsonl",  # lm-evaluation-harness
    r"\d{4}-\d\d-\d\dT[\d+:-]+_(?P<task>.+)_\w+\.(eval|json)",  # Inspect
    r"details_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.-]+\.parquet",  # lighteval
    r"(?P<task>per_instance_stats)\.json",  # HELM
    r"(.+_)?(?P<task>eval_results)\.json",  # evalplus
    r"(?P<task>test_run)_\d{8}_\d{6}(_\d+)?\.json",  # deepeval
)
"""The names that tools give to files of single items; "task" is what two such files must have in common."""

_OTHERS = (".jsonl", ".csv", ".tsv", ".json", ".eval", ".parquet")


def task_of(path: Path) -> str | None:
    """Return the task that the name of a tool's file gives, or what the tool calls every such file."""
    found = next((found for name in _NAMES if (found := re.fullmatch(name, path.name))), None)
    return found["task"] if found else None


def only_file(folder: Path) -> Path:
    """Return the one file of results in a folder (or one folder below); InputError lists them where there are more."""
    found = _files(folder)
    if not found:
        raise InputError(
            f"{folder} holds no file of results.",
            fix="Give a folder with scores.jsonl, a run folder, or a file of results itself.",
        )
    if len(found) > 1:
        names = listed([str(path.relative_to(folder)) for path in found])
        raise InputError(f"{folder} holds {len(found)} files of results: {names}.", fix="Give one of these files.")
    return found[0]


def matched(base: Path, tuned: Path) -> tuple[Path, Path]:
    """Return the two files of the one task that both sides have, where a side is a folder of several tasks.

    Both are returned as they are where that does not name one file on each side; `read_scores` then says why.
    """
    if not base.is_dir() and not tuned.is_dir():
        return base, tuned
    sides = [_by_task(path) for path in (base, tuned)]
    common = [task for task in sides[0] if task in sides[1]]
    if len(common) != 1:
        return base, tuned
    one, other = (side[common[0]] for side in sides)
    return (one[0], other[0]) if len(one) == len(other) == 1 else (base, tuned)


def _by_task(path: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in _files(path) if path.is_dir() else [path]:
        if task := task_of(file):
            found.setdefault(task, []).append(file)
    return found


def _files(folder: Path) -> list[Path]:
    """Return the files whose names a known tool gives, or, where there are none, all whose endings fit."""
    below = [path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [path for path in below if task_of(path)] or [path for path in below if path.suffix.lower() in _OTHERS]
