"""Test runs of deepeval (test_run_*.json, .latest_run_full.json): test cases with the score of each metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.of_tools import held_against, told_apart
from tunelift.comparison.readers.values import Item, items_of, number, objects, scores_of, text
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

_LISTS = ("testCases", "conversationalTestCases")

_TURNED_ROUND = ("Bias", "Hallucination", "Misuse", "Toxicity")
"""Metrics of which 0 is best up to deepeval 4.1.8, and 1 in 4.3.1: their names do not tell the direction."""


def is_run(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a test run, alone or as .latest_test_run.json wraps it."""
    return any(name in value for name in _LISTS) or isinstance(value.get("testRunData"), dict)


def read_run(path: Path, run: Mapping[str, Any]) -> Scores:
    """Turn test cases into rows; a case's name is the id, and a case whose every metric failed is unscored.

    deepeval's own figures, metricsScores, hold the scores of the cases where a metric did not fail (test_run.py:
    construct_metrics_scores, 4.3.1); their mean is that over the rows. No file says whether higher is better, and for
    some metrics that changed: it is read off the file, by which side of the threshold succeeds. Raises InputError,
    naming the case.
    """
    run = run.get("testRunData", run)
    cases = [item for name in _LISTS if run.get(name) for item in items_of(run[name], f"{path}, {name}", "case")]
    if not cases:
        raise InputError(f"{path} holds no test cases.", fix="Give the file of a run that ended.")
    measured = [
        items_of(found, f"{where}, metricsData", "metric") if (found := case.get("metricsData")) else []
        for where, case in cases
    ]
    directions = _directions(metric.row for metrics in measured for metric in metrics)
    unclear = [name for name in _TURNED_ROUND if name not in directions]
    rows = told_apart(_row(item, metrics, unclear) for item, metrics in zip(cases, measured, strict=True))
    scores = scores_of(rows, path, directions=directions, made_with={})
    return held_against(scores, path, "deepeval", _own_figures(run))


def _row(item: Item, metrics: Iterable[Item], unclear: Sequence[str]) -> dict[str, Any]:
    case = item.row
    scored: dict[str, float] = {}
    failed = []
    for metric in metrics:
        score, name = number(metric.row.get("score")), text(metric.row.get("name"))
        if score is None or metric.row.get("error"):
            failed.append(f"{name}: {text(metric.row.get('error')) or 'no score'}")
        else:
            scored[f"{name} of unknown direction" if name in unclear else name] = score
    row = {"id": text(case.get("name")), **_exchange(item), "metrics": scored}
    return row if scored else row | {"unscored": f"{'; '.join(failed) or 'it has no metric':.200}"}


def _exchange(item: Item) -> dict[str, str]:
    """Return input, reference and prediction; of a conversation the scenario and users' turns, and the assistant's."""
    case = item.row
    if "turns" not in case and "scenario" not in case:
        names = (("input", "input"), ("reference", "expectedOutput"), ("prediction", "actualOutput"))
        return {role: text(case.get(name)) for role, name in names}
    turns = [turn.row for turn in items_of(case["turns"], item.where, "turn")] if case.get("turns") else []
    user, assistant = (
        "\n".join(text(turn.get("content")) for turn in turns if turn.get("role") == role)
        for role in ("user", "assistant")
    )
    return {
        "input": text(case["scenario"]) if case.get("scenario") else user,
        "reference": text(case.get("expectedOutcome")),
        "prediction": assistant,
    }


def _directions(metrics: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Return {metric: whether higher is better} where all cases beside the threshold say the same."""
    told: dict[str, set[bool]] = {}
    for metric in metrics:
        score, threshold = number(metric.get("score")), number(metric.get("threshold"))
        success = metric.get("success")
        if score is None or threshold is None or score == threshold or not isinstance(success, bool):
            continue
        if not metric.get("error"):
            told.setdefault(text(metric.get("name")), set()).add((score > threshold) == success)
    return {name: said.pop() for name, said in told.items() if len(said) == 1}


def _own_figures(run: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for entry in objects(run.get("metricsScores")):
        scores = entry.get("scores")
        values = [number(score) for score in scores] if isinstance(scores, list) else []
        known = [value for value in values if value is not None]
        if known:
            found[text(entry.get("metric"))] = sum(known) / len(known)
    return found
