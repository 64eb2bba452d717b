"""The fastest view of a causal language model that gives the model's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunelift.fast import trials
from tunelift.fast.target_only import TargetOnly, UnsupportedError
from tunelift.fast.targets import TargetModel
from tunelift.fast.whole_logits import RowByRow, WholeLogits


def target_model(model: Any, rows: Sequence[Sequence[int]] = ()) -> tuple[TargetModel, str]:
    """Return the fastest view of `model` that gives its own logits, and "on" or "off: reason" for the manifest.

    Each fast path is tried against the plain one, so that no architecture is taken on trust: where `rows` of ids are
    given, at the length of the longest (see trials.py). A model of which all this is known is not tried again.
    """
    fast, reason = None, "on"
    try:
        fast = TargetOnly(model)
    except UnsupportedError as error:
        reason = f"off: {error}"
    found = trials.found(model, fast, rows)
    view: TargetModel
    if fast is None or found.head != "on":
        reason = reason if fast is None else found.head
        view = WholeLogits(model, reason)
    else:
        view = fast
        fast.take(found)
    view.nats = found.nats
    return (RowByRow(view) if found.alone else view), reason
