"""The threshold of the model as it is now, chosen on validation rows, and that of a tuned model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tunelift.adapters.build import is_adapted
from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.evaluation.plan import Plan
from tunelift.metrics import resolve

if TYPE_CHECKING:
    from tunelift.pipeline.session import Session

TUNED: WeakKeyDictionary[Any, float | None] = WeakKeyDictionary()
"""By the model, peft's or one tuned whole: what was chosen for it; so another session of it knows."""


def choose_threshold(session: Session, validation: Sequence[Example], plan: Plan, title: str) -> None:
    """Choose the session's threshold by validation rows, measured as in `plan`; without any it stays as it is.

    Where they do not tell, none is chosen.
    """
    task = session.task
    if task.threshold is None or not validation or not task.threshold.arises(validation):
        return
    metrics, labels = resolve(task.threshold.metrics), session.labels
    plan = replace(plan, metrics=metrics, task=task, labels=labels, slices=(), cache=True)
    session.threshold = task.threshold.best(session.score(validation, plan, title).rows)
    if session.whole or is_adapted(session.model):
        TUNED[session.model] = session.threshold
    else:
        session.base_threshold = session.threshold
    if session.threshold is not None:
        progress.note(f"{title}: {task.threshold.said.format(f'{session.threshold:.3g}')}, chosen on validation")
