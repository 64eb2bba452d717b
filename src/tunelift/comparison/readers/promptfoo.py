"""Results of promptfoo (eval -o results.json or .jsonl): one row for each test, prompt and provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.of_tools import held_against, told_apart
from tunelift.comparison.readers.values import Item, identifier, items_of, nested, number, scores_of, text
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Scores

VERSION = 3
"""The layout of results that is read, which promptfoo 0.123 writes."""

_ERROR = 2  # failureReason: the provider failed, and nothing was asserted (src/types/index.ts: ResultFailureReason)
_LOWER = ("latencyMs", "cost")
_OF_RUN = ("sessionId", "_conversation")
"""Variables that promptfoo adds while it runs."""


def is_results(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a file of promptfoo's."""
    return isinstance(nested(value, "results").get("results"), list)


def is_result(row: Mapping[str, Any]) -> bool:
    """Return whether a row is one that promptfoo writes."""
    return "promptIdx" in row and "testIdx" in row


def read_results(path: Path, value: Mapping[str, Any]) -> Scores:
    """Turn a file of one prompt and one provider into rows; InputError lists them where there are more.

    "pass" and "score" are promptfoo's own for each test, and so are named scores, each averaged over the tests whose
    provider answered: a test that ended in an error is unscored here, and not passed in promptfoo's pass rate.
    """
    results = nested(value, "results")
    if results.get("version") != VERSION:
        raise InputError(
            f"{path} holds results of promptfoo in version {text(results.get('version')) or 'unknown'}; "
            f"{VERSION} is read.",
            fix="Evaluate again, or write the file again, with a newer promptfoo: promptfoo export eval ID -o FILE.",
        )
    items = items_of(results["results"], str(path), "result")
    scores = read_rows(path, items)
    return held_against(scores, path, "promptfoo", _own_figures(results.get("prompts"), items[0].row["promptIdx"]))


def read_rows(path: Path, items: Iterable[Item]) -> Scores:
    """Turn the results of one prompt and one provider into rows; InputError lists them where there are more."""
    items = list(items)
    for item in items:
        if not is_result(item.row):
            raise InputError(f"{item.where}: lacks promptIdx or testIdx, which promptfoo writes.")
    _check_one_column(path, items)
    rows = told_apart(_row(item) for item in items)
    if not any(row["metrics"].get("cost") for row in rows):
        for row in rows:
            row["metrics"].pop("cost", None)
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    directions = {name: name not in _LOWER for name in names}
    first = items[0].row
    made_with = {"model": _provider(first), "prompt": text(first.get("promptId")) or None}
    errors = sum(1 for row in rows if row.get("unscored"))
    notes = [f"{errors} tests ended in an error; promptfoo counts them as not passed."] if errors else []
    return scores_of(rows, path, directions=directions, made_with=made_with, notes=notes)


def _check_one_column(path: Path, items: Sequence[Item]) -> None:
    columns: dict[str, str] = {}
    for item in items:
        column, label = text(item.row["promptIdx"]), text(nested(item.row, "prompt").get("label"))
        columns.setdefault(column, f"{column}: {_provider(item.row)}, {label!r:.60}")
    if len(columns) > 1:
        chosen = f"select(.promptIdx == {next(iter(columns))})"
        query = f"-c '{chosen}'" if path.suffix == ".jsonl" else f"'.results.results |= map({chosen})'"
        raise InputError(
            f"{path} holds the results of {len(columns)} prompts and providers: {listed(columns.values())}.",
            fix=f"Give a file of one of them for each side: jq {query} {path.name} > one{path.suffix}, "
            "or promptfoo eval with --filter-providers and --filter-prompts.",
        )


def _provider(row: Mapping[str, Any]) -> str:
    told = nested(row, "provider")
    return text(told.get("label")) or text(told.get("id")) or text(row.get("provider"))


def _row(item: Item) -> dict[str, Any]:
    """Return a test's row: its variables are the input, what it asserts the reference.

    The prompt is no part of the input, since it is the same for all tests but for the variables.
    """
    result, test = item.row, nested(item.row, "testCase")
    values = {name: value for name, value in nested(result, "vars").items() if name not in _OF_RUN}
    row = {
        "id": identifier(result["testIdx"], item.where),
        "input": text(values),
        "reference": _asserted(test.get("assert")),
        "prediction": text(nested(result, "response").get("output")),
    }
    if result.get("failureReason") == _ERROR or not isinstance(result.get("success"), bool):
        reason = text(result.get("error")).partition("\n")[0]
        return row | {"metrics": {}, "unscored": f"error: {reason:.200}"}
    return row | {"metrics": _metrics(result)}


def _asserted(asserts: Any) -> str:
    """Return what a single assertion expects, where that is text, or all of them."""
    only = asserts[0] if isinstance(asserts, list) and len(asserts) == 1 else None
    expected = only.get("value") if isinstance(only, dict) else None
    return expected if isinstance(expected, str) else text(asserts)


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return pass, score and the named scores; and, of answers that came from no cache, latency and cost."""
    cost = {} if nested(result, "response").get("cached") else {name: result.get(name) for name in _LOWER}
    found = {"pass": result["success"], "score": result.get("score"), **nested(result, "namedScores"), **cost}
    numbers = {name: number(value) for name, value in found.items() if not isinstance(value, str)}
    return {name: value for name, value in numbers.items() if value is not None}


def _own_figures(prompts: Any, column: Any) -> dict[str, float]:
    """Return promptfoo's means over the tests without an error; named scores by their weights, else counts."""
    there = isinstance(prompts, list) and isinstance(column, int) and 0 <= column < len(prompts)
    prompt, found = prompts[column] if there else None, {}
    metrics = nested(prompt, "metrics") if isinstance(prompt, dict) else {}
    passed, failed = (number(metrics.get(name)) for name in ("testPassCount", "testFailCount"))
    tests = (passed or 0) + (failed or 0)
    score = number(metrics.get("score"))
    if tests:
        found["pass"] = (passed or 0) / tests
        if score is not None:
            found["score"] = score / tests
    weights = nested(metrics, "namedScoreWeights") or nested(metrics, "namedScoresCount")
    for name, value in nested(metrics, "namedScores").items():
        total, weight = number(value), number(weights.get(name))
        if total is not None and weight:
            found[name] = total / weight
    return found
