"""Results of evalplus (eval_results.json): for each task its solutions, and whether they pass the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.of_tools import held_against
from tunelift.comparison.readers.values import Item, items_of, nested, scores_of, text
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

PLUS, BASE = "pass@1 (base + extra tests)", "pass@1 (base tests)"


def is_results(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a file of evalplus: lists of solutions by task, where a log of Inspect has texts."""
    tasks = value.get("eval")
    return isinstance(tasks, dict) and bool(tasks) and all(isinstance(found, list | dict) for found in tasks.values())


def read_results(path: Path, results: Mapping[str, Any]) -> Scores:
    """Turn a file into one row for each task: the share of its solutions that pass is the tool's pass@1.

    evalplus's own pass@1 is the mean of that share over the tasks (evaluate.py and eval/__init__.py:
    estimate_pass_at_k, 0.3.1), whose numbers of solutions may differ; rows of single solutions would weigh them by it.
    A solution passes the extra tests only with the base tests. Raises InputError, naming the task.
    """
    tasks = {task: _solutions(path, task, found) for task, found in results["eval"].items()}
    extra = any(item.row.get("plus_status") is not None for solutions in tasks.values() for item in solutions)
    rows = [_row(task, solutions, extra) for task, solutions in tasks.items()]
    notes = ["it holds no questions, so items are identified by their task alone."]
    most = max(len(solutions) for solutions in tasks.values())
    if most > 1:
        notes.append(f"a task has up to {most} solutions; the share that passes is its score.")
    made_with = {"task": text(results.get("hash")) or None}  # the hash of the data set
    scores = scores_of(rows, path, directions={PLUS: True, BASE: True}, made_with=made_with, notes=notes)
    said = nested(results, "pass_at_k")
    figures = {PLUS: nested(said, "plus").get("pass@1"), BASE: nested(said, "base").get("pass@1")}
    return held_against(scores, path, "evalplus", figures)


def _solutions(path: Path, task: str, found: Any) -> list[Item]:
    where = f"{path}, task {task}"
    if isinstance(found, dict):
        raise InputError(
            f"{where}: lists of statuses, as evalplus wrote them before 0.2.1.",
            fix="Evaluate the samples again with a newer evalplus: evalplus.evaluate --samples FILE.",
        )
    solutions = items_of(found, where, "solution")
    for item in solutions:
        if "base_status" not in item.row:
            raise InputError(
                f'{item.where}: lacks "base_status".',
                fix="evalplus 0.2.1 to 0.3 write it. For files of tools made from it, such as BigCodeBench, write "
                "a csv with the columns id and passed.",
            )
    return solutions


def _row(task: str, solutions: Sequence[Item], extra: bool) -> dict[str, Any]:
    base = [item.row["base_status"] == "pass" for item in solutions]
    plus = [passed and item.row.get("plus_status") == "pass" for passed, item in zip(base, solutions, strict=True)]
    shares = ((PLUS, plus), (BASE, base)) if extra else ((BASE, base),)
    return {
        "id": task,
        "input": task,
        "reference": "",
        "prediction": text(solutions[0].row.get("solution")),
        "metrics": {name: sum(passed) / len(passed) for name, passed in shares},
    }
