"""Runs of HELM (per_instance_stats.json, with the files beside it): statistics of each instance and trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunelift.comparison.readers.of_tools import held_against
from tunelift.comparison.readers.values import Item, identifier, items_of, nested, number, objects, scores_of, text
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.core.records import Scores

_OF_COST = (
    "num_", "max_num_", "estimated_num_", "prompt_truncated", "finish_reason_", "predicted_index", "batch_size",
    "training_", "inference_", "logprob", "max_prob",
)  # fmt: skip
"""How names begin that tell about requests and not about answers (HELM's schema: infrastructure, efficiency)."""

_HIGHER = (
    "exact_match", "quasi_exact_match", "prefix_exact_match", "quasi_prefix_exact_match", "exact_match@5", "f1_score",
    "rouge_1", "rouge_2", "rouge_l", "bleu_1", "bleu_4", "RR@10", "NDCG@10", "math_equiv", "code_eval_acc", "pass",
    "math_equiv_chain_of_thought", "test_avg", "strict_acc", "exact_set_match", "iou_set_match", "safety_score",
    "final_number_exact_match", "chain_of_thought_correctness", "ifeval_strict_accuracy", "wildbench_score",
    "wildbench_score_rescaled", "omni_math_accuracy",
)  # fmt: skip
_LOWER = ("expected_max_toxicity", "max_toxicity_probability", "toxic_frac")
"""Directions of HELM's schemas (schema_classic.yaml, schema_lite.yaml, 0.5.16), for runs without a schema.json."""

_DECODING = ("temperature", "max_tokens", "stop_sequences", "num_outputs")
_Key = tuple[str, str, str]
"""Instance, perturbation as text, trial."""


def is_stats(row: Mapping[str, Any]) -> bool:
    """Return whether a row is one of per_instance_stats.json."""
    return "instance_id" in row and isinstance(row.get("stats"), list)


_Context = tuple[str, ...]
"""A metric's name, split, part of the split and perturbation."""


@dataclass(slots=True)
class _Run:
    """What is kept of the items: metrics of each answer, names of perturbations, what has several values an item."""

    found: dict[_Key, dict[_Context, float]] = field(default_factory=dict)
    perturbations: dict[str, str] = field(default_factory=dict)
    trials: set[str] = field(default_factory=set)
    weighed: dict[str, None] = field(default_factory=dict)

    def called(self, perturbation: str) -> str:
        """Return a perturbation's name, or the whole of it where others have the same."""
        name = self.perturbations.get(perturbation, perturbation)
        return name if list(self.perturbations.values()).count(name) == 1 else perturbation


def read_stats(path: Path, items: Iterable[Item]) -> Scores:
    """Turn statistics into rows, with questions and answers of the files beside.

    Where a file holds several splits or perturbations, each has metrics of its own, "exact_match (test, typos)", as it
    has figures of its own in stats.json: there a metric is the mean over instances of a trial, then over trials
    (benchmark/metrics/metric.py: Metric.evaluate, 0.5.16). Raises InputError, naming the item.
    """
    run, folder = _Run(), path.absolute().parent
    for item in items:
        _add(item, run)
    labels, texts = _labels(run), _texts(folder)
    rows = [
        _row(key, metrics, labels, run) | texts.get(key, texts.get((*key[:2], ""), {}))
        for key, metrics in run.found.items()
    ]
    said = _directions(folder.parent / "schema.json")
    directions = {label: said[context[0]] for context, label in labels.items() if context[0] in said}
    notes = [f"{name} has several values an item, whose mean counts once." for name in run.weighed]
    if not texts:
        notes.append("neither scenario_state.json nor instances.json lies beside it, so items are known by id alone.")
    made_with = _made_with(folder / "run_spec.json")
    scores = scores_of(rows, path, directions=directions, made_with=made_with, notes=notes)
    return held_against(scores, path, "HELM", dict(_own_figures(folder / "stats.json", labels)))


def _add(item: Item, run: _Run) -> None:
    if not is_stats(item.row):
        raise InputError(f"{item.where}: lacks instance_id or stats, which HELM writes.")
    key = _key(item.row, item.where)
    run.perturbations[key[1]] = text(nested(item.row, "perturbation").get("name")) or key[1]
    run.trials.add(key[2])
    metrics = run.found.setdefault(key, {})
    for stat in objects(item.row["stats"]):
        told, mean = nested(stat, "name"), number(stat.get("mean"))
        name = text(told.get("name"))
        if not told or mean is None or name.startswith(_OF_COST):
            continue
        if stat.get("count") != 1:
            run.weighed[name] = None
        metrics[_context(told)] = mean


def _key(row: Mapping[str, Any], where: str) -> _Key:
    perturbation, trial = text(row.get("perturbation")), text(row.get("train_trial_index", 0))
    return identifier(row.get("instance_id"), where), perturbation, trial


def _context(name: Mapping[str, Any]) -> _Context:
    return tuple(text(name.get(part)) for part in ("name", "split", "sub_split", "perturbation"))


def _labels(run: _Run) -> dict[_Context, str]:
    """Return what to call each metric: by its name alone where the file has one split and no perturbation."""
    contexts = list(dict.fromkeys(context for metrics in run.found.values() for context in metrics))
    if len({context[1:] for context in contexts}) < 2:
        return {context: context[0] for context in contexts}
    labels: dict[_Context, str] = {}
    for name, split, part, perturbation in contexts:
        parts = ", ".join(filter(None, (split, part, run.called(perturbation))))
        labels[name, split, part, perturbation] = f"{name} ({parts})" if parts else name
    return labels


def _row(key: _Key, metrics: Mapping[_Context, float], labels: Mapping[_Context, str], run: _Run) -> dict[str, Any]:
    instance, perturbation, trial = key
    several = len(run.trials) > 1
    parts = [instance, run.called(perturbation), f"trial {trial}" if several else ""]
    row = {
        "id": "/".join(filter(None, parts)),
        "input": instance,
        "reference": "",
        "prediction": "",
        "metrics": {labels[context]: value for context, value in metrics.items()},
    }
    row |= {"cluster": instance} if several or perturbation else {}
    return row if row["metrics"] else row | {"unscored": "HELM gives no metric of its answer"}


def _texts(folder: Path) -> dict[_Key, dict[str, str]]:
    """Return question and answer of each instance and trial, from what helm-summarize or helm-run wrote.

    instances.json has no trials: its questions stand under the trial "".
    """
    instances, shown, state = (
        folder / f"{name}.json" for name in ("instances", "display_predictions", "scenario_state")
    )
    found: dict[_Key, dict[str, str]] = {}
    if instances.is_file():
        found = {_instance_key(row, ""): _question(row) for row in _rows_beside(instances)}
        for row in _rows_beside(shown):
            key = _key(row, str(shown))
            found[key] = found.get((*key[:2], ""), {}) | {"prediction": text(row.get("predicted_text"))}
        return found
    for request in _rows_beside(state, "request_states"):
        instance, trial = nested(request, "instance"), text(request.get("train_trial_index", 0))
        completion = next(iter(objects(nested(request, "result").get("completions"))), {})
        found[_instance_key(instance, trial)] = _question(instance) | {"prediction": text(completion.get("text"))}
    return found


def _rows_beside(path: Path, inside: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a file, or of what is `inside` it; none where there is no such file."""
    if not path.is_file():
        return []
    rows = files.read_object(path).get(inside) if inside else files.read_json(path)
    return [item.row for item in items_of(rows, str(path), "item")]


def _instance_key(instance: Mapping[str, Any], trial: str) -> _Key:
    return text(instance.get("id")), text(instance.get("perturbation")), trial


def _question(instance: Mapping[str, Any]) -> dict[str, str]:
    known = [each for each in objects(instance.get("references")) if isinstance(each.get("tags"), list)]
    correct = [text(nested(each, "output").get("text")) for each in known if "correct" in each["tags"]]
    return {
        "input": text(nested(instance, "input").get("text")),
        "reference": correct[0] if len(correct) == 1 else text(correct),
    }


def _directions(schema: Path) -> dict[str, bool]:
    known = dict.fromkeys(_HIGHER, True) | dict.fromkeys(_LOWER, False)
    for metric in objects(files.read_object(schema).get("metrics")):
        if isinstance(metric.get("lower_is_better"), bool):
            known[text(metric.get("name"))] = not metric["lower_is_better"]
    return known


def _made_with(spec: Path) -> dict[str, Any]:
    """Return the scenario, the model, and how it was asked, of the run_spec.json beside."""
    told = files.read_object(spec)
    if not told:
        return {}
    adapter = nested(told, "adapter_spec")
    asked = {name: value for name, value in adapter.items() if not name.startswith("model") and name not in _DECODING}
    return {
        "task": text(told.get("scenario_spec")),
        "model": adapter.get("model"),
        "prompt": text(asked),
        "decoding": {name: adapter.get(name) for name in _DECODING},
    }


def _own_figures(stats: Path, labels: Mapping[tuple[str, ...], str]) -> Iterator[tuple[str, float]]:
    for row in _rows_beside(stats):
        label, mean = labels.get(_context(nested(row, "name"))), number(row.get("mean"))
        if label is not None and mean is not None:
            yield label, mean
