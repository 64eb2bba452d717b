"""Details of lighteval (details_TASK_DATE.parquet, or the same rows as JSON): document, response and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.files_of import task_of
from tunelift.comparison.readers.of_tools import held_against, told_apart
from tunelift.comparison.readers.values import Item, nested, number, objects, scores_of, text
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

_HIGHER = (
    "acc", "avg@n", "em", "extractive_match", "f1", "g-pass@k", "math-g-pass@k", "latex-g-pass@k", "gpqa_pass@k",
    "maj@n", "mrr", "pass@k", "recall", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu_1", "bleu_4", "bleurt",
    "simpleqa_judge", "summac", "truthfulqa_mc1", "truthfulqa_mc2", "BERTScore-P", "BERTScore-R", "BERTScore-F",
)  # fmt: skip
"""Metrics of single items of which lighteval's registry says that higher is better (metrics/metrics.py, 0.13.0)."""

_OF_SUMS = {
    "ppl": "perplexity",
    "word_perplexity": "word_perplexity",
    "byte_perplexity": "byte_perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""Metrics made of sums over the documents, and what they are called here."""

_NEWER = (
    "Evaluate again with lighteval 0.11 or newer, or write a csv with the columns id, input, reference, prediction and "
    "one for each metric."
)


def is_detail(row: Mapping[str, Any]) -> bool:
    """Return whether a row is one of lighteval's, of any version."""
    return all(isinstance(row.get(name), dict) for name in ("doc", "metric", "model_response")) or _is_old(row)


def read_details(path: Path, items: Iterable[Item]) -> Scores:
    """Turn details into rows: the query is the input, the choices that are right the reference.

    lighteval's own figure is, for nearly all metrics, the mean over the documents (logging/info_loggers.py:
    MetricsLogger.aggregate, and corpus_level_fn of the metric; 0.13.0); of DROP and of copyright it is the greatest
    item, which the note on results_DATE.json says. Perplexities and bits per byte are made of sums (metrics_corpus.py:
    CorpusLevelPerplexityMetric), so they are counts here. Other metrics of all documents together are named and left
    out. Raises InputError, naming the row.
    """
    skipped: dict[str, None] = {}
    merged: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    first: Mapping[str, Any] = {}
    for item in items:
        if not is_detail(item.row):
            raise InputError(f"{item.where}: lacks doc, metric or model_response, which lighteval writes.")
        if _is_old(item.row):
            raise InputError(f"{item.where}: details as lighteval wrote them before 0.11.", fix=_NEWER)
        first = first or item.row
        _merge(merged, _row(item.row) | _measured(nested(item.row, "metric"), skipped))
    rows = [row for same in merged.values() for row in same]
    for row in rows:
        if not row["counts"]:
            del row["counts"]
            if not row["metrics"]:
                row["unscored"] = "it has no metric with a number of its own"
    notes = [f"{name} is made from all documents together and has no number for each." for name in skipped]
    results, task = _results_beside(path), task_of(path) or ""
    known = _directions(nested(nested(results, "config_tasks"), task))
    names = {name: name if name in known else name.partition(":")[0] for row in rows for name in row["metrics"]}
    directions = {name: known[registered] for name, registered in names.items() if registered in known}
    model = nested(results, "config_general").get("model_name")
    made_with = _made_with(nested(first, "doc")) | {"model": model if isinstance(model, str) else None}
    scores = scores_of(told_apart(rows), path, directions=directions, made_with=made_with, notes=notes)
    return held_against(scores, path, "lighteval", nested(nested(results, "results"), task))


def _is_old(row: Mapping[str, Any]) -> bool:
    return all(name in row for name in ("full_prompt", "predictions", "gold_index", "metrics"))


def _row(detail: Mapping[str, Any]) -> dict[str, Any]:
    document, response = nested(detail, "doc"), nested(detail, "model_response")
    answers = response.get("text_post_processed") or response.get("text")
    return {
        "id": text(document.get("id")),
        "input": text(document.get("query")),
        "reference": _reference(document),
        "prediction": text(answers[0]) if isinstance(answers, list) and answers else "",
    }


def _reference(document: Mapping[str, Any]) -> str:
    choices, gold = document.get("choices"), document.get("gold_index")
    right = gold if isinstance(gold, list) else [gold]
    if not isinstance(choices, list):
        return ""
    found = [choices[index] for index in right if isinstance(index, int) and 0 <= index < len(choices)]
    return text(found[0]) if len(found) == 1 else text(found)


def _merge(merged: dict[tuple[str, ...], list[dict[str, Any]]], row: dict[str, Any]) -> None:
    """Add a row, or only its metrics: a document stands there once for each way in which a task asks the model."""
    same = merged.setdefault((row["id"], row["input"], row["reference"]), [])
    names = row["metrics"].keys() | row["counts"].keys()
    before = next((each for each in same if not names & (each["metrics"].keys() | each["counts"].keys())), None)
    if before is None:
        same.append(row)
    else:
        before["metrics"] |= row["metrics"]
        before["counts"] |= row["counts"]
        before["prediction"] = before["prediction"] or row["prediction"]


def _measured(found: Mapping[str, Any], skipped: dict[str, None]) -> dict[str, dict[str, Any]]:
    """Return one document's numbers, and as counts what a metric sums over the documents."""
    metrics, counts = {}, {}
    for name, value in found.items():
        single, sums = number(value), _sums(name, nested(found, name))
        if single is not None:
            metrics[name] = single
        elif sums is not None:
            counts[_OF_SUMS[name]] = sums
        elif value is not None:
            skipped[name] = None
    return {"metrics": metrics, "counts": counts}


def _sums(name: str, value: Mapping[str, Any]) -> dict[str, float] | None:
    """Return nats and weight of a document: a "ppl" weighs all alike, the others by words or bytes."""
    likelihood, weight = number(value.get("logprobs")), 1.0 if name == "ppl" else number(value.get("weights"))
    if name not in _OF_SUMS or likelihood is None or not math.isfinite(likelihood) or not weight or weight < 0:
        return None
    return {"nats": -likelihood, "weight": weight}


def _results_beside(path: Path) -> Mapping[str, Any]:
    """Return the run's results_DATE.json: under results/MODEL, where the details lie under details/MODEL/DATE."""
    found = re.fullmatch(r"details_.+_(\d{4}-\d\d-\d\dT[\d.-]+)\.parquet", path.name)
    if found is None:
        return {}
    run = path.absolute().parent
    results = run / f"results_{found[1]}.json"
    details = next((parent for parent in run.parents if parent.name == "details"), None)
    if details and not results.is_file():
        results = details.with_name("results") / run.parent.relative_to(details) / results.name
    return files.read_object(results)


def _directions(config: Mapping[str, Any]) -> dict[str, bool]:
    """Return what the run's own metrics say, else the registry."""
    known = dict.fromkeys(_HIGHER, True)
    for metric in objects(config.get("metrics")):
        higher = metric.get("higher_is_better")
        said = higher if isinstance(higher, dict) else {text(metric.get("metric_name")): higher}
        known |= {name: value for name, value in said.items() if isinstance(value, bool)}
    return known


def _made_with(document: Mapping[str, Any]) -> dict[str, Any]:
    examples = document.get("fewshot_samples")
    return {
        "task": text(document.get("task_name")) or None,
        "prompt": f"{text(document.get('instruction'))}{len(examples) if isinstance(examples, list) else 0} examples",
        "decoding": {name: document.get(name) for name in ("generation_size", "stop_sequences", "num_samples")},
    }
