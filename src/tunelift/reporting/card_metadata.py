"""The model card's front matter: lineage, library, tags and results, in the keys that the Hub reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tunelift.reporting import wording
from tunelift.reporting.run_contents import RunContents

ORIGINALS = {
    "gemma3-270m": "google/gemma-3-270m",
    "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}
"""The Hub ids of the models that the bundled packages hold."""

HUB_DATASET = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@[\w./-]+)?")
FILE_ENDINGS = {".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt"}


def front_matter(run: RunContents) -> dict[str, Any]:
    """Return the front matter; what is not known (such as the licence that the adapter shall have) is absent.

    The keys are those of huggingface_hub's ModelCardData, `model-index` as its `eval_results_to_model_index` makes it.
    """
    base = base_model(run)
    datasets = [name for name in {dataset(run, "train"): None, dataset(run, "test"): None} if name]
    front: dict[str, Any] = {"base_model": base, "base_model_relation": "adapter"} if base else {}
    front |= {"library_name": "peft", "pipeline_tag": pipeline_tag(run), "tags": _tags(run, base)}
    front |= {"datasets": datasets} if datasets else {}
    results = _results(run)
    return front | ({"model-index": [{"name": name(run), "results": results}]} if results else {})


def base_model(run: RunContents) -> str | None:
    """Return the base's id on the Hub, for a bundled package that of the model it holds; None for local files."""
    model = run.noted("model")
    if model.get("kind") == "hub":
        return str(model["name"])
    return ORIGINALS.get(str(model.get("name"))) if model.get("kind") == "bundled" else None


def name(run: RunContents) -> str:
    """Return what the adapter is called: its run folder's name."""
    return run.folder.resolve().name


def pipeline_tag(run: RunContents) -> str:
    """Return the Hub's name of the task."""
    return run.task().pipeline_tag


def source(run: RunContents, role: str) -> str | None:
    """Return a data file's name without the folders of the machine it lay on; a Hub id as it is."""
    given = (run.settings().get("data") or {}).get(role)
    if not isinstance(given, str):
        return None
    path = Path(given)
    return path.name if path.is_absolute() or path.suffix or given.startswith((".", "~")) else given


def dataset(run: RunContents, role: str) -> str | None:
    """Return the Hub id of a split's data set; None for files, folders and bundled data."""
    given = (run.settings().get("data") or {}).get(role)
    found = HUB_DATASET.fullmatch(given) if isinstance(given, str) else None
    if found is None or Path(found[0]).suffix in FILE_ENDINGS or found[0].startswith(".") or Path(found[0]).exists():
        return None
    return found["name"]


def _tags(run: RunContents, base: str | None) -> list[str]:
    method = str(run.noted("adapter").get("method", "lora"))
    return [method, "tunelift", *([f"base_model:adapter:{base}"] if base else [])]


def _results(run: RunContents) -> list[dict[str, Any]]:
    """Return the results on the test items, and beside them those on each set that may have been forgotten."""
    names = (find(run, role) for role in ("test", "train") for find in (dataset, source))
    tested = next(filter(None, names), "test items")
    metrics = run.comparison.get("metrics") or {}
    values = [value for metric, entry in metrics.items() for value in _values(metric, entry)]
    results = [_result(run, tested, values)] if values else []
    for kept, entry in (run.comparison.get("forgetting") or {}).items():
        values = _values(str(entry.get("metric", "value")), entry)
        results += [_result(run, kept, values)] if values and kept != tested else []
    return results


def _result(run: RunContents, tested: str, values: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task": {"type": pipeline_tag(run)},
        "dataset": {"type": tested, "name": tested, "split": "test"},
        "metrics": values,
    }


def _values(metric: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tuned model's value, and the base's beside it, named as such."""
    return [
        {"type": metric, "name": f"{wording.measure(metric)} ({side})", "value": entry[side]}
        for side in ("tuned", "base")
        if entry.get(side) is not None
    ]
