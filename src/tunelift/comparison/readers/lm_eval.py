"""Samples of lm-evaluation-harness: one line per item and filter, with the requests, responses and metrics."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.files_of import task_of
from tunelift.comparison.readers.values import Item, identifier, nested, number, scores_of, text
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores
from tunelift.metrics import direction

Logged = Mapping[str, Any]

_NO_METRICS = frozenset(
    {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
        "bypass",
    }
)


def is_sample(row: Logged) -> bool:
    """Return whether a row is one that lm-evaluation-harness writes."""
    return "doc_id" in row and "arguments" in row and ("resps" in row or "filtered_resps" in row)


Value = float | dict[str, float]
"""A number, or the counts of a perplexity."""


@dataclass(slots=True)
class _Document:
    """What is kept of one document's lines: the row without its metrics, and the metrics of each filter."""

    row: dict[str, Any]
    prompt_hash: str
    metrics: dict[str, dict[str, Value]] = field(default_factory=dict)


def read_samples(path: Path, items: Iterable[Item]) -> Scores:
    """Turn samples into rows: doc_id is the id, the document the input, the correct choice or the target the reference.

    A file with several filters has a metric for each, such as "exact_match (strict-match)". Directions come from
    results_*.json beside it. "made_with" has the hash of all prompts, so that other few-shot examples or another
    template are no comparison. Raises InputError, naming the line.
    """
    documents: dict[str, _Document] = {}
    settings: dict[str, Any] = {}
    skipped: dict[str, None] = {}
    for item in items:
        document, name = _document(item, documents)
        document.metrics[name] = dict(_metrics(item.row, skipped))
        settings |= {text(part): part for request in _requests(item) for part in request if isinstance(part, dict)}
    several = len({name for document in documents.values() for name in document.metrics}) > 1
    rows = [_row(document, several) for document in documents.values()]
    # Nearly all tasks generate with the same settings for every item; other ones are not described.
    decoding = next(iter(settings.values())) if len(settings) == 1 else None
    task = task_of(path)
    results = _results_beside(path, task)
    # In whatever order the items stand.
    prompts = json.dumps(sorted((doc, document.prompt_hash) for doc, document in documents.items()))
    hashed = f"prompts with the hash {hashlib.sha256(prompts.encode()).hexdigest()[:16]}"
    made_with = {"task": task, "prompt": hashed, "decoding": decoding}
    notes = [f"{name} is made from all items together and has no number per item." for name in skipped]
    notes += _of_adapter(results, task)
    names = dict.fromkeys(name for row in rows for name in [*row["metrics"], *row.get("counts", {})])
    return scores_of(rows, path, directions=_directions(results, task, names), made_with=made_with, notes=notes)


def _document(item: Item, documents: dict[str, _Document]) -> tuple[_Document, str]:
    """Return the document of a line, which is new with its first filter, and the filter's name."""
    if not is_sample(item.row):
        raise InputError(f"{item.where}: lacks doc_id, arguments or responses, which the first line has.")
    doc, name = identifier(item.row["doc_id"], item.where), text(item.row.get("filter", "none"))
    document = documents.get(doc)
    if document is None:
        row = {"id": doc, "input": text(item.row.get("doc")), **_answer(item)}
        known = item.row.get("prompt_hash")
        if not isinstance(known, str):
            known = hashlib.sha256(text(_innermost(_requests(item)[0])).encode()).hexdigest()
        document = documents[doc] = _Document(row, known)
    if name in document.metrics:
        raise InputError(
            f'{item.where}: the item {doc} stands there for the second time with the filter "{name}".',
            fix="Give the samples of one task and one run.",
        )
    return document, name


def _row(document: _Document, several: bool) -> dict[str, Any]:
    found = {
        f"{metric} ({name})" if several else metric: value
        for name, values in document.metrics.items()
        for metric, value in values.items()
    }
    counts = {name: value for name, value in found.items() if isinstance(value, dict)}
    row = document.row | {"metrics": {name: value for name, value in found.items() if name not in counts}}
    row |= {"counts": counts} if counts else {}
    return row if found else row | {"unscored": "it has no metric with a number for each item"}


def _metrics(row: Logged, skipped: dict[str, None]) -> Iterable[tuple[str, Value]]:
    named = row.get("metrics")
    for name in named if isinstance(named, list) else row:
        value = row.get(name) if isinstance(name, str) and name not in _NO_METRICS else None
        if value is None:
            continue
        found = _per_item(name, value)
        if found is None:
            skipped[name] = None
        else:
            yield name, found


def _per_item(name: str, value: Any) -> Value | None:
    """Return a metric's number for one item, or None where the harness makes it from all items together.

    For perplexities and bits per byte a line holds a log-likelihood, alone or with the words or bytes. The harness's
    value is made of their sums (`weighted_perplexity`, `bits_per_byte` and `perplexity` in lm_eval/api/metrics.py,
    0.4.13), so they are counts here.
    """
    single = number(value)
    if single is not None:
        return _nats(single, 1.0) if name == "perplexity" and single <= 0 else single
    if name not in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        return None
    parts = [number(part) for part in value] if isinstance(value, list) else []
    if len(parts) != 2 or parts[0] is None or not parts[1] or parts[1] < 0 or not math.isfinite(parts[0]):
        return None
    return _nats(parts[0], parts[1])


def _nats(log_likelihood: float, weight: float) -> dict[str, float]:
    return {"nats": -log_likelihood, "weight": weight}


def _answer(item: Item) -> dict[str, Any]:
    """Return prediction and reference as text, and log-likelihoods where the responses are such."""
    row, target = item.row, text(item.row.get("target"))
    requests = _requests(item)
    likelihoods = [_log_likelihood(response) for response in _list(row.get("filtered_resps") or row.get("resps"))]
    known = [value for value in likelihoods if value is not None]
    generates = any(isinstance(part, dict) for request in requests for part in request)
    if generates or not known or len(known) < len(likelihoods):
        return {"prediction": text(_innermost(row.get("resps") or row.get("filtered_resps"))), "reference": target}
    if len(known) == 1:
        return {"prediction": "", "reference": target, "log_likelihood": known[0]}
    return _choice(row, requests, known, target)


def _choice(row: Logged, requests: Sequence[Sequence[Any]], known: Sequence[float], target: str) -> dict[str, Any]:
    """Return the choice ranked first and the correct one.

    A target is the number of a choice or its text. Of the requests of acc_mutual_info only those behind the question
    count. Where that does not explain the accuracy of the line (several correct choices, other rankings), the target
    and the number of the likeliest choice are given as they are.
    """
    behind = [number for number, request in enumerate(requests[: len(known)]) if request[:1] == requests[0][:1]]
    numbered = len(behind) < 2  # one continuation of several contexts: choices have numbers only
    choices = list(range(len(known))) if numbered else behind
    labels = [str(choice) if numbered else text(requests[choice][-1]) for choice in choices]
    scores = [known[choice] for choice in choices]
    best = max(range(len(scores)), key=scores.__getitem__)
    right = next((place for place, label in enumerate(labels) if label.strip() == target.strip()), -1)
    if target.isdecimal() and target.isascii() and len(target) < 5:
        right = int(target)
    explains = 0 <= right < len(labels) and len(set(labels)) == len(labels) and all(map(math.isfinite, scores))
    if not explains or number(row.get("acc", best == right)) != (best == right):
        return {"prediction": str(best), "reference": target}
    return {
        "prediction": labels[best],
        "reference": labels[right],
        "log_likelihood": scores[right],
        "label_scores": dict(zip(labels, scores, strict=True)),
    }


def _requests(item: Item) -> list[list[Any]]:
    """Return the arguments of each request: {"gen_args_0": {"arg_0": ..}} of 0.4.3 and later, lists before."""
    arguments = item.row["arguments"]
    found = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not isinstance(found, list) or not found:
        raise InputError(f'{item.where}: "arguments" must hold the requests of the item.')
    return [list(request.values()) if isinstance(request, dict) else _list(request) for request in found]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _innermost(value: Any) -> Any:
    """Return the first response: `[["text"]]`, a list of requests of repeats, holds it."""
    while isinstance(value, list) and value:
        value = value[0]
    return value


def _log_likelihood(response: Any) -> float | None:
    """Return the log-likelihood of `["-0.5", "False"]`, of `[["-0.5", "False"]]` or of `"-0.5"`."""
    value = _innermost(response)
    return number(value) if isinstance(response, list) or isinstance(value, int | float | str) else None


def _directions(results: Logged, task: str | None, names: Iterable[str]) -> dict[str, bool]:
    """Return {metric: whether higher is better}, from the results_*.json of the same run where it is there."""
    said = nested(nested(results, "higher_is_better"), task or "")
    known = {name: said.get(name.partition(" (")[0]) for name in names}
    known = {name: higher if isinstance(higher, bool) else direction(name) for name, higher in known.items()}
    return {name: higher for name, higher in known.items() if higher is not None}


def _results_beside(path: Path, task: str | None) -> dict[str, Any]:
    results = path.with_name(path.name.replace(f"samples_{task}_", "results_", 1)).with_suffix(".json")
    return files.read_object(results) if task and results != path else {}


def _of_adapter(results: Logged, task: str | None) -> list[str]:
    """Warn where the harness put an adapter on the model, as its results say: `peft` among the arguments of the model.

    Before it does so it makes the embeddings as long as the tokenizer wherever the two differ (models/huggingface.py:
    HFLM._create_model, 0.4.5 to 0.4.13). No file says whether they did.
    """
    config = nested(results, "config")
    arguments = _model_arguments(config.get("model_args"))
    adapter = arguments.get("peft")
    if not adapter and "peft_sha" not in config:
        return []
    model, name = (
        shlex.quote(text(arguments.get(key)) or what) for key, what in (("pretrained", "MODEL"), ("peft", "ADAPTER"))
    )
    return [
        f"made by the harness with peft={name}. Where tokenizer and model differ in length, it makes the embeddings of "
        "the adapter's side alone longer or shorter: scores change, even if an adapter does nothing. To be sure, "
        f"score both sides here: tunelift compare --adapter {name} --model {model} --data ROWS "
        f"evaluate.tasks={task or 'TASK'}"
    ]


def _model_arguments(said: Any) -> dict[str, Any]:
    """Return the arguments of --model_args: text such as `pretrained=gpt2,peft=folder`, or an object in newer files."""
    if isinstance(said, dict):
        return said
    pairs = (pair.partition("=") for pair in text(said).split(","))
    return {name.strip(): value for name, equals, value in pairs if equals}
