"""Measure a model on examples: what the metrics need is computed once, then each item becomes one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Scores
from tunelift.evaluation.cache import LAYERS, Kept, context_of, hash_of
from tunelift.evaluation.measures import Measure, measure_for
from tunelift.evaluation.measures.base import short_hash
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, begun, metric_entry, slices_of
from tunelift.fast.undo import in_evaluation
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import context_length
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.run_files.layout import FORMAT


def score(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    plan: Plan,
    made_with: Mapping[str, Any],
    title: str = "score",
    *,
    known: list[Measure] | None = None,
) -> Scores:
    """Return one row per example and the aggregates; `made_with` adds to what the rows were made with.

    Tokens of the same items are taken from `known` measures, to which this one is added where it is another.
    Items that do not fit the model's context are unscored, with that reason. Raises InputError where nothing is left to
    score, a metric needs labels and there are none, or the data have no column of a slice's name.
    """
    if not examples:
        raise InputError("There are no rows to evaluate.", fix="Give data.test a file with at least one row.")
    slices = slices_of(examples, plan.slices)
    with in_evaluation(model), sped_up(model, "forward") as layers:
        measure = tokenised(model, tokenizer, examples, plan, title, known=known)
        if not measure.fitting:
            longest = max(measure.length(i) for i in range(len(examples)))
            raise InputError(
                f"Every item is longer than the model's context of {measure.context} tokens (the longest has "
                f"{longest}).",
                fix="Shorten the prompts or take a model with a longer context.",
            )
        measure.fast_paths |= {name: layers[name] for name in LAYERS if name in layers}
        found, before = _found(measure, made_with)
    rows = [begun(example, slices[i]) | measure.row(i, found.get(i)) for i, example in enumerate(examples)]
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
        **({"cut": cut} if measure.generates else {}),
        "from_cache": before,
        "metrics": {m.name: metric_entry(m, rows) for m in plan.metrics},
        "made_with": {
            **_how(measure),
            "prompt": short_hash(measure.prompt()),
            **measure.noted(),
            "dtype": dtype_name(compute_dtype(model)),
            **made_with,
        },
    }
    return Scores(rows, info)


def tokenised(
    model: Any, tokenizer: Any, examples: Sequence[Example], plan: Plan, title: str, *, known: list[Measure] | None
) -> Measure:
    """Return the examples as tokens, those of a `known` measure of them where there is one."""
    context = context_length(model, tokenizer)  # of which an adapter may take some
    for measure in known or []:
        same = measure.examples is examples and measure.tokenizer is tokenizer and measure.plan == plan
        if same and measure.context == context:
            return measure.on(model, title)
    measure = measure_for(plan)(model, tokenizer, examples, plan, title)
    if known is not None:
        known.append(measure)
    return measure


def _found(measure: Measure, made_with: Mapping[str, Any]) -> tuple[dict[int, Found], int]:
    """Return what each fitting item gives, and for how many of them it was known before."""
    how = _how(measure) | {"labels": list(measure.plan.labels), "ends": None, **measure.beside()}
    context = context_of(measure.model, measure.tokenizer, made_with, how) if measure.plan.cache else None
    keys = {i: hash_of(measure.key(i)) for i in measure.fitting} if context else {}
    if context and (complete := context.complete(keys.values())):
        measure.fast_paths = complete.fast_paths
        return _known(complete, keys, measure.title), len(keys)
    compute = measure.prepared()
    kept = context.kept(measure.fast_paths) if context else None
    found = _known(kept, keys, measure.title) if kept else {}
    before = len(found)
    left = sorted((i for i in measure.fitting if i not in found), key=measure.length, reverse=True)
    size = measure.at_once if kept else max(1, len(left))
    with progress.bar(measure.title, len(left) * measure.passes) as advance:
        for start in range(0, len(left), size):
            computed = compute(left[start : start + size], advance)
            if kept:
                kept.add({keys[i]: asdict(entry) for i, entry in computed.items()})
            found |= computed
    return found, before


def _known(kept: Kept, keys: Mapping[int, str], title: str) -> dict[int, Found]:
    found = {i: Found(**kept.found[key]) for i, key in keys.items() if key in kept.found}
    if found:
        progress.note(f"{title}: {len(found)} of {len(keys)} items were scored before.")
    return found


def _how(measure: Measure) -> dict[str, Any]:
    """Return what must agree between two results for them to be comparable, and the fast paths."""
    made = {"task": measure.plan.task.name, "decoding": None, "label_scoring": None}
    return {**made, "fast_paths": dict(measure.fast_paths), **measure.how()}
