"""Measure a model on examples: what the metrics need is computed once, then each item becomes one row."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import FORMAT, Example, Scores
from tunelift.data.render import Renderer
from tunelift.evaluation.generation import Decoding, end_ids, generate_greedily
from tunelift.evaluation.heads import label_log_probabilities
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.evaluation.ranking import ranker
from tunelift.evaluation.rows import Found, answered, begun, labelled, metric_entry, slices_of
from tunelift.fast.lora import fused_lora
from tunelift.fast.targets import target_model
from tunelift.metrics import Metric
from tunelift.tasks.base import context_length, pad_id

MOST_LABELS = 1000
"""More distinct completions than this are answers, not labels; ranking them all would take for ever."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `labels` are the texts to rank, or the class names of a head.

    `slices` are columns of the data whose values go into the rows, so that a comparison can be made for each.
    """

    metrics: Sequence[Metric]
    task: str = "causal-lm"
    labels: Sequence[str] = ()
    label_score: str = "sum"
    max_new_tokens: int = 128
    stop: Sequence[str] = ()
    rows_at_once: int = 16
    max_length: int = 1024
    slices: Sequence[str] = ()

    @property
    def ranks(self) -> bool:
        return self.task == "causal-lm" and any(metric.needs == "label" for metric in self.metrics)

    @property
    def generates(self) -> bool:
        """Where labels are ranked, the label ranked first is the text of metrics that need one."""
        return self.task == "causal-lm" and not self.ranks and any(metric.needs == "text" for metric in self.metrics)


def score(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    plan: Plan,
    made_with: Mapping[str, Any],
    title: str = "score",
) -> Scores:
    """Return one row per example and the aggregates; `made_with` adds to what the rows were made with.

    Items that do not fit the model's context are unscored, with that reason. Raises InputError where nothing is left to
    score, a metric needs labels and there are none, or the data have no column of a slice's name.
    """
    if not examples:
        raise InputError("There are no rows to evaluate.", fix="Give data.test a file with at least one row.")
    slices = slices_of(examples, plan.slices)
    items = _Items(model, tokenizer, examples, plan)
    was_training = model.training
    model.eval()
    try:
        with progress.bar(title, len(items.fitting) * items.passes) as advance, fused_lora(model):
            found = items.head(advance) if plan.task == "sequence-classification" else items.causal(advance)
    finally:
        model.train(was_training)
    rows = [
        begun(example, slices[i]) | answered(example, found.get(i), plan.metrics) for i, example in enumerate(examples)
    ]
    unscored = Counter(row["unscored"] for row in rows if "unscored" in row)
    for reason, count in unscored.items():
        progress.note(f"{count} of {len(examples)} items are unscored: {reason}.")
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": unscored.total(),
        "metrics": {m.name: metric_entry(m, rows) for m in plan.metrics},
        "made_with": {**items.made_with(), "dtype": _dtype(model), **made_with},
    }
    return Scores(rows, info)


class _Items:
    """The examples of one evaluation, and the passes over them."""

    def __init__(self, model: Any, tokenizer: Any, examples: Sequence[Example], plan: Plan) -> None:
        self.model, self.tokenizer, self.examples, self.plan = model, tokenizer, examples, plan
        self.context = context_length(model, tokenizer)
        self.renderer = Renderer(tokenizer, min(plan.max_length, self.context))
        self.fast_paths: dict[str, str] = {}
        self.truncated = 0
        self.prompts: list[list[int]] = []
        if plan.task == "causal-lm":
            self.prompts = [self.renderer.prompt_ids(example) for example in examples]
            self.completions = [self.renderer.completion_ids(example) for example in examples]
            self.fitting = [i for i in range(len(examples)) if self._length(i) <= self.context]
            self.passes = 1 + plan.generates if not plan.ranks else 1
        else:
            self.fitting, self.passes = list(range(len(examples))), 1
        if not self.fitting:
            longest = max(self._length(i) for i in range(len(examples)))
            raise InputError(
                f"Every item is longer than the model's context of {self.context} tokens (the longest has {longest}).",
                fix="Shorten the prompts or take a model with a longer context.",
            )

    def causal(self, advance: progress.Advance) -> dict[int, Found]:
        view, self.fast_paths["target_only_head"] = target_model(self.model)
        if self.plan.ranks:
            return self._ranked(view, advance)
        pairs = [(self.prompts[i], self.completions[i]) for i in self.fitting]
        likely = log_likelihoods(view, pairs, self.model.device, self.plan.rows_at_once, advance)
        found = {i: Found(None, *both) for i, both in zip(self.fitting, likely, strict=True)}
        if self.plan.generates:
            for i, answer in zip(self.fitting, self._generated(advance), strict=True):
                found[i].prediction = answer
        return found

    def head(self, advance: progress.Advance) -> dict[int, Found]:
        tokens = [self.renderer.head_tokens(example) for example in self.examples]
        self.truncated = sum(t.truncated for t in tokens)
        if self.truncated:
            progress.note(f"{self.truncated} of {len(tokens)} texts were cut to {self.renderer.max_length} tokens.")
        labels, pad = list(self.plan.labels), pad_id(self.model, self.tokenizer)
        scores = label_log_probabilities(self.model, [t.ids for t in tokens], pad, self.plan.rows_at_once, advance)
        return {
            i: labelled(example.completion, dict(zip(labels, row, strict=True)), None, tokens=1)
            for i, (example, row) in enumerate(zip(self.examples, scores, strict=True))
        }

    def made_with(self) -> dict[str, Any]:
        """Return what must agree between two results for them to be comparable, and the fast paths."""
        plan = self.plan
        made: dict[str, Any] = {"task": plan.task, "decoding": None, "label_scoring": None}
        if plan.generates:
            made["decoding"] = {"method": "greedy", "max_new_tokens": plan.max_new_tokens, "stop": list(plan.stop)}
        if plan.ranks or plan.task == "sequence-classification":
            labels = _hash(sorted(plan.labels))
            made["label_scoring"] = {"score": plan.label_score, "labels": len(plan.labels), "labels_hash": labels}
        if plan.task == "causal-lm":
            return made | {"prompt": _hash(self.prompts), "max_length": self.context, "fast_paths": self.fast_paths}
        made |= {"max_length": self.renderer.max_length, "truncated": self.truncated}
        return made | {"prompt": _hash([e.prompt for e in self.examples])}

    def _ranked(self, view: Any, advance: progress.Advance) -> dict[int, Found]:
        labels = list(self.plan.labels)
        if not 2 <= len(labels) <= MOST_LABELS:
            raise InputError(
                f"Accuracy ranks the labels, and there are {len(labels)}; 2 to {MOST_LABELS} are allowed.",
                fix="Name the labels with data.labels, or take a metric of the text, such as exact_match.",
            )
        by_mean, index = self.plan.label_score == "mean", {label: n for n, label in enumerate(labels)}
        # A mean over tokens may rise with a further token, so no label can be left out early.
        needed = None if by_mean else [index.get(self.examples[i].completion) for i in self.fitting]
        choices = [self.renderer.candidate_ids(self.examples[i], labels) for i in self.fitting]
        prompts = [self.prompts[i] for i in self.fitting]
        shortest = min(range(len(prompts)), key=lambda i: len(prompts[i]))
        rank, self.fast_paths["label_tree"] = ranker(
            self.model, view, self.model.device, self.plan.rows_at_once, (prompts[shortest], choices[shortest])
        )
        found = {}
        for i, ids, scores in zip(self.fitting, choices, rank.rank(prompts, choices, needed, advance), strict=True):
            lengths = dict(zip(labels, map(len, ids), strict=True)) if by_mean else None
            known = {label: s for label, s in zip(labels, scores, strict=True) if s is not None}
            found[i] = labelled(self.examples[i].completion, known, lengths, len(self.completions[i]))
        return found

    def _generated(self, advance: progress.Advance) -> list[str]:
        stop_ids = set(self.renderer.stop_ids(self.examples[0])) | end_ids(self.model)
        decoding = Decoding(stop_ids, self.plan.max_new_tokens, self.context, self.plan.stop)
        prompts = [self.prompts[i] for i in self.fitting]
        return generate_greedily(self.model, self.tokenizer, prompts, decoding, self.plan.rows_at_once, advance)

    def _length(self, i: int) -> int:
        return len(self.prompts[i]) + max(len(self.completions[i]), 1)


def _dtype(model: Any) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]
