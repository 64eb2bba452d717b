"""What a model says of rows before it is trained on them, for losses that compare with it: computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunelift.core import progress
from tunelift.evaluation.cache import LAYERS, Kept, context_of, hash_of
from tunelift.evaluation.likelihood import Pair, of_groups
from tunelift.evaluation.plan import Plan
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import TargetModel
from tunelift.fast.undo import in_evaluation
from tunelift.fast.unpad import sped_up
from tunelift.tasks.base import Row
from tunelift.tasks.preference import Before

AT_ONCE = 64
"""Rows computed before they are written to the cache."""


def with_reference(
    model: Any, rows: Sequence[Row], plan: Plan, made_with: Mapping[str, Any], tokenizer: Any, *, is_base: bool
) -> list[Row]:
    """Return the rows with what the model as it is says of their answers, where the plan's task compares with that.

    `made_with` names the model and the adapter that is on, by which what was computed before is found again.
    """
    groups = [plan.task.compared(row) for row in rows]
    if not all(groups) or all(row.beside for row in rows):
        return list(rows)
    with in_evaluation(model), sped_up(model, "forward") as layers:
        view, _ = target_model(model, [[*prompt, *answer] for group in groups for prompt, answer in group])
        fast_paths = view.fast_paths | {name: layers[name] for name in LAYERS if name in layers}
        how = {"task": plan.task.name, "what": "reference"}
        context = context_of(model, tokenizer, made_with, how) if plan.cache else None
        known = _known(view, model, groups, plan, context.kept(fast_paths) if context else None)
    return [replace(row, beside=Before(tuple(said), is_base)) for row, said in zip(rows, known, strict=True)]


def _known(
    view: TargetModel, model: Any, groups: Sequence[Sequence[Pair]], plan: Plan, kept: Kept | None
) -> list[list[float]]:
    """Return the log-likelihoods (nats) of each group's answers, of those that are not kept computed now."""
    keys = [hash_of(group) for group in groups]
    known: dict[str, list[float]] = {key: kept.found[key] for key in keys if key in kept.found} if kept else {}
    if known:
        progress.note(f"reference: {sum(key in known for key in keys)} of {len(keys)} rows were scored before")
    left = [i for i, key in enumerate(keys) if key not in known]
    left.sort(key=lambda i: -sum(len(prompt) + len(answer) for prompt, answer in groups[i]))
    with progress.bar("reference", len(left)) as advance:
        for start in range(0, len(left), AT_ONCE):
            some = left[start : start + AT_ONCE]
            found = of_groups(view, [groups[i] for i in some], model.device, plan.rows_at_once, advance)
            new = {keys[i]: [total for total, _ in sides] for i, sides in zip(some, found, strict=True)}
            known |= new
            if kept:
                kept.add(new)
    return [known[key] for key in keys]
