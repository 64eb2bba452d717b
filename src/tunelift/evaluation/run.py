"""Measure a model on examples: what the metrics need is computed once, then each item becomes one row."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import FORMAT, Example, Scores
from tunelift.data.answers import Asked, answer_text
from tunelift.data.render import Renderer, own_completion
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.cache import LAYERS, Context, Kept, context_of, hash_of
from tunelift.evaluation.generation import Decoding, before_stop, end_ids
from tunelift.evaluation.heads import label_log_probabilities
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.evaluation.ranking import Ranker, ranker
from tunelift.evaluation.rows import Found, answered, begun, labelled, metric_entry, slices_of
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import TargetModel
from tunelift.fast.undo import in_evaluation
from tunelift.fast.unpad import sped_up
from tunelift.metrics import Metric
from tunelift.tasks.base import context_length, pad_id

MOST_LABELS = 1000
"""More distinct completions than this are answers, not labels; ranking them all would take for ever."""

KEPT_AT_ONCE, GENERATED_AT_ONCE = 256, 64
"""Items computed before they are written to the cache: an evaluation that is cut off loses no more than these."""

Compute = Callable[[Sequence[int], progress.Advance], dict[int, Found]]
"""Computes the items of these indices."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how. `labels` are the texts to rank, or the class names of a head.

    `slices` are columns of the data whose values go into the rows, so that a comparison can be made for each. With
    `cache`, what is known of an item from before is taken from there, and what is computed now is kept.
    """

    metrics: Sequence[Metric]
    task: str = "causal-lm"
    labels: Sequence[str] = ()
    label_score: str = "sum"
    max_new_tokens: int = 128
    stop: Sequence[str] = ()
    thinking: str = "strip"
    rows_at_once: int = 16
    max_length: int = 1024
    slices: Sequence[str] = ()
    cache: bool = False

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
    with in_evaluation(model), sped_up(model, "forward") as layers:
        items = _Items(model, tokenizer, examples, plan)
        items.fast_paths |= {name: layers[name] for name in LAYERS if name in layers}
        found, before = items.found(made_with, title)
    rows = [
        begun(example, slices[i]) | answered(example, found.get(i), plan.metrics, items.reference(i))
        for i, example in enumerate(examples)
    ]
    unscored = Counter(row["unscored"] for row in rows if "unscored" in row)
    for reason, count in unscored.items():
        progress.note(f"{count} of {len(examples)} items are unscored: {reason}.")
    cut = sum("cut" in row for row in rows)
    if cut:
        progress.note(f"{title}: {cut} of {len(rows)} answers were cut at {plan.max_new_tokens} tokens or the context.")
    info = {
        "format": FORMAT,
        "items": len(rows),
        "unscored": unscored.total(),
        **({"cut": cut} if plan.generates else {}),
        "from_cache": before,
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
        self.choices: list[list[list[int]]] = [[] for _ in examples]
        self.asked: list[Asked] = []
        if plan.task == "causal-lm":
            labels = self._labels() if plan.ranks else []
            texts = [[own_completion(example), *labels] for example in examples]
            rows = self.renderer.continued(examples, texts)
            self.prompts = [prompt for prompt, _ in rows]
            self.completions, self.choices = [ids[0] for _, ids in rows], [ids[1:] for _, ids in rows]
            self.asked = self.renderer.asked(examples) if plan.generates else []
            self.fitting = [i for i in range(len(examples)) if self._length(i) <= self.context]
            self.passes = 1 + plan.generates
        else:
            tokens = [self.renderer.head_tokens(example) for example in examples]
            self.truncated = sum(t.truncated for t in tokens)
            if self.truncated:
                progress.note(f"{self.truncated} of {len(tokens)} texts were cut to {self.renderer.max_length} tokens.")
            self.prompts, self.completions = [t.ids for t in tokens], [[] for _ in tokens]
            self.fitting, self.passes = list(range(len(examples))), 1
        if not self.fitting:
            longest = max(self._length(i) for i in range(len(examples)))
            raise InputError(
                f"Every item is longer than the model's context of {self.context} tokens (the longest has {longest}).",
                fix="Shorten the prompts or take a model with a longer context.",
            )

    def found(self, made_with: Mapping[str, Any], title: str) -> tuple[dict[int, Found], int]:
        """Return what each fitting item gives, and for how many of them it was known before."""
        context = self._context(made_with) if self.plan.cache else None
        keys = {i: self._key(i) for i in self.fitting} if context else {}
        if context and (complete := context.complete(keys.values())):
            self.fast_paths = complete.fast_paths
            return _known(complete, keys, title), len(keys)
        self._say_long_references(title)
        compute = self._prepared()
        kept = context.kept(self.fast_paths) if context else None
        found = _known(kept, keys, title) if kept else {}
        before = len(found)
        left = sorted((i for i in self.fitting if i not in found), key=self._length, reverse=True)
        size = (GENERATED_AT_ONCE if self.plan.generates else KEPT_AT_ONCE) if kept else max(1, len(left))
        with progress.bar(title, len(left) * self.passes) as advance:
            for start in range(0, len(left), size):
                computed = compute(left[start : start + size], advance)
                if kept:
                    kept.add({keys[i]: asdict(entry) for i, entry in computed.items()})
                found |= computed
        return found, before

    def made_with(self) -> dict[str, Any]:
        """Return what must agree between two results for them to be comparable, and the fast paths."""
        plan = self.plan
        made: dict[str, Any] = {"task": plan.task, "decoding": None, "label_scoring": None}
        made["fast_paths"] = dict(self.fast_paths)
        if plan.generates:
            made["decoding"] = {"method": "greedy", "max_new_tokens": plan.max_new_tokens, "stop": list(plan.stop)}
            made["decoding"] |= {"thinking": plan.thinking} if plan.thinking != "strip" else {}
        if plan.ranks or plan.task == "sequence-classification":
            labels = _hash(sorted(plan.labels))
            made["label_scoring"] = {"score": plan.label_score, "labels": len(plan.labels), "labels_hash": labels}
        if plan.task == "causal-lm":
            return made | {"prompt": _hash(self.prompts), "max_length": self.context}
        made |= {"max_length": self.renderer.max_length, "truncated": self.truncated}
        return made | {"prompt": _hash([e.prompt for e in self.examples])}

    def _prepared(self) -> Compute:
        """Try the fast paths on a sample; return what computes the items."""
        if self.plan.task == "sequence-classification":
            return self._classified
        view, _ = target_model(self.model, [[*self.prompts[i], *self.completions[i]] for i in self.fitting])
        self.fast_paths |= view.fast_paths
        if self.plan.generates:
            prompts = [self.asked[i].ids for i in self.fitting]
            self.generate, self.fast_paths["generation"] = greedy(self.model, self.tokenizer, view.nats, prompts)
        return partial(self._ranked, self._ranker(view)) if self.plan.ranks else partial(self._likely, view)

    def _context(self, made_with: Mapping[str, Any]) -> Context | None:
        how = {key: value for key, value in self.made_with().items() if key not in ("prompt", "truncated")}
        how |= {"labels": list(self.plan.labels), "ends": sorted(self._stop_ids()) if self.plan.generates else None}
        return context_of(self.model, self.tokenizer, made_with, how)

    def _key(self, i: int) -> str:
        key = [self.prompts[i], self.completions[i], self.examples[i].completion, self.choices[i]]
        return hash_of([*key, asdict(self.asked[i])] if self.asked else key)

    def _likely(self, view: TargetModel, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        pairs = [(self.prompts[i], self.completions[i]) for i in some]
        likely = log_likelihoods(view, pairs, self.model.device, self.plan.rows_at_once, advance)
        found = {i: Found(None, *both) for i, both in zip(some, likely, strict=True)}
        if self.plan.generates:
            for i, (answer, cut) in zip(some, self._generated(some, advance), strict=True):
                found[i].prediction, found[i].cut = answer, cut
        return found

    def _classified(self, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        labels, pad = list(self.plan.labels), pad_id(self.model, self.tokenizer)
        rows = [self.prompts[i] for i in some]
        scores = label_log_probabilities(self.model, rows, pad, self.plan.rows_at_once, advance)
        return {
            i: labelled(self.examples[i].completion, dict(zip(labels, row, strict=True)), None, tokens=1)
            for i, row in zip(some, scores, strict=True)
        }

    def _labels(self) -> list[str]:
        """Return the labels to rank; raise InputError where there are too few or too many."""
        labels = list(self.plan.labels)
        if not 2 <= len(labels) <= MOST_LABELS:
            raise InputError(
                f"Accuracy ranks the labels, and there are {len(labels)}; 2 to {MOST_LABELS} are allowed.",
                fix="Name the labels with data.labels, or take a metric of the text, such as exact_match.",
            )
        return labels

    def _ranker(self, view: TargetModel) -> Ranker:
        shortest = min(self.fitting, key=lambda i: len(self.prompts[i]))
        sample = self.prompts[shortest], self.choices[shortest]
        rank, self.fast_paths["label_tree"] = ranker(view, self.model.device, self.plan.rows_at_once, sample)
        return rank

    def _ranked(self, rank: Ranker, some: Sequence[int], advance: progress.Advance) -> dict[int, Found]:
        labels = list(self.plan.labels)
        by_mean, index = self.plan.label_score == "mean", {label: n for n, label in enumerate(labels)}
        # A mean over tokens may rise with a further token, so no label can be left out early.
        needed = None if by_mean else [index.get(self.examples[i].completion) for i in some]
        prompts, choices = [self.prompts[i] for i in some], [self.choices[i] for i in some]
        found = {}
        for i, ids, scores in zip(some, choices, rank.rank(prompts, choices, needed, advance), strict=True):
            lengths = dict(zip(labels, map(len, ids), strict=True)) if by_mean else None
            known = {label: s for label, s in zip(labels, scores, strict=True) if s is not None}
            found[i] = labelled(self.examples[i].completion, known, lengths, len(self.completions[i]))
        return found

    def reference(self, i: int) -> str | None:
        """Return the reference as it comes back from its own tokens: what a model that repeats it is seen to say."""
        return self._said(i, self._own_answer(i)) if self.asked else None

    def _generated(self, some: Sequence[int], advance: progress.Advance) -> list[tuple[str, bool]]:
        """Return the answers, and of each whether it was cut."""
        stop = [*self.plan.stop, *self.renderer.stop_strings(self.examples[0])]
        decoding = Decoding(self._stop_ids(), self.plan.max_new_tokens, self.context, stop)
        prompts = [self.asked[i].ids for i in some]
        found = self.generate(prompts, decoding, self.plan.rows_at_once, advance)
        return [(before_stop(self._said(i, c.ids), stop), c.cut) for i, c in zip(some, found, strict=True)]

    def _said(self, i: int, ids: Sequence[int]) -> str:
        return answer_text(self.tokenizer, ids, self.asked[i].marks, keep_thinking=self.plan.thinking == "keep")

    def _own_answer(self, i: int) -> list[int]:
        """Return what the model has to write to answer item `i` as its reference does, without the end."""
        asked, prompt = self.asked[i].ids, self.prompts[i]
        ids = [*(prompt[len(asked) :] if prompt[: len(asked)] == asked else []), *self.completions[i]]
        return ids[:-1] if ids[-1:] and ids[-1] in self._ends else ids

    def _say_long_references(self, title: str) -> None:
        lengths = [len(self._own_answer(i)) for i in self.fitting] if self.asked else []
        most = self.plan.max_new_tokens
        if too_long := sum(length > most for length in lengths):
            progress.note(
                f"{title}: {too_long} of {len(lengths)} references are longer than evaluate.max_new_tokens ({most}), "
                f"so that no answer can equal them; the longest has {max(lengths)} tokens."
            )

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens that end the references."""
        ends = {ids[-1] for ids in self.completions if ids and ids[-1] in self.renderer.special_ids}
        return ends | set(self.renderer.end)

    def _stop_ids(self) -> set[int]:
        return self._ends | end_ids(self.model)

    def _length(self, i: int) -> int:
        """Return the tokens of the longest row that an item makes: labels may be longer than the reference."""
        return len(self.prompts[i]) + max(1, len(self.completions[i]), *map(len, self.choices[i]))


def _known(kept: Kept, keys: Mapping[int, str], title: str) -> dict[int, Found]:
    found = {i: Found(**kept.found[key]) for i, key in keys.items() if key in kept.found}
    if found:
        progress.note(f"{title}: {len(found)} of {len(keys)} items were scored before.")
    return found


def _dtype(model: Any) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]
