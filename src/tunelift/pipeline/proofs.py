"""Proofs on a tune: the adapter on disk is the one in memory, it acts, and the base is what it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import load_peft_weights, set_peft_model_state_dict

from tunelift.adapters.build import switched_off
from tunelift.core import progress
from tunelift.core.errors import TuneliftError
from tunelift.core.records import Example
from tunelift.evaluation.run import Plan
from tunelift.metrics import resolve
from tunelift.pipeline.session import Session

ITEMS = 8
"""Training rows that the proofs are made on, the shortest: they fit the context wherever any does."""


def rows_to_prove_on(examples: Sequence[Example]) -> list[Example]:
    """Return the shortest few examples."""
    return sorted(examples, key=lambda example: len(example.prompt) + len(example.completion))[:ITEMS]


def likelihoods(session: Session, examples: Sequence[Example], max_length: int) -> list[float]:
    """Return the log-likelihood (nats) of each reference, as the session's model gives it now."""
    plan = Plan(resolve(["loss"]), task=session.task, labels=session.labels, max_length=max_length)
    with progress.silenced():
        scores = session.score(examples, plan, "prove")
    return [row.get("log_likelihood") or 0.0 for row in scores.rows]


def prove(
    session: Session, folder: Path, examples: Sequence[Example], before: Sequence[float], max_length: int
) -> list[dict[str, Any]]:
    """Return the proofs, each {"name", "passed", "detail"}; raise TuneliftError where one fails.

    `before` are the base's log-likelihoods of the same examples, taken before the adapter was put on; they are not
    looked at where the adapter trains the base's biases (LoRA's `bias`).
    """
    memory = likelihoods(session, examples, max_length)
    with switched_off(session.model):
        base = likelihoods(session, examples, max_length)
    disk = _reloaded(session, folder, examples, max_length)
    proofs = [
        _proof("adapter on disk equals memory", _apart(disk, memory), _tolerance(session), at_most=True),
        _proof("adapter acts", _apart(memory, base), 1e-7, at_most=False),
    ]
    if before and not _trains_biases(session):
        proofs.append(_proof("base unchanged by training", _apart(base, before), _tolerance(session), at_most=True))
    failed = [f"{proof['name']}: {proof['detail']}" for proof in proofs if not proof["passed"]]
    if failed:
        raise TuneliftError(
            *(f"A proof failed: {line}." for line in failed), fix=f"The adapter in {folder} must not be relied on."
        )
    return proofs


def _reloaded(session: Session, folder: Path, examples: Sequence[Example], max_length: int) -> list[float]:
    """Return the log-likelihoods with the adapter read back from disk, beside the one in memory if peft allows two."""
    if _trains_biases(session):
        weights = load_peft_weights(str(folder), device=str(session.model.device))
        set_peft_model_state_dict(session.model, weights, adapter_name=session.model.active_adapter)
        return likelihoods(session, examples, max_length)
    active = session.model.active_adapter
    trainable = {name for name, parameter in session.model.named_parameters() if parameter.requires_grad}
    session.model.load_adapter(str(folder), adapter_name="from_disk")
    session.model.set_adapter("from_disk")
    try:
        return likelihoods(session, examples, max_length)
    finally:
        session.model.set_adapter(active)
        session.model.delete_adapter("from_disk")
        for name, parameter in session.model.named_parameters():
            parameter.requires_grad_(name in trainable)


def _trains_biases(session: Session) -> bool:
    """Tell whether the adapter trains biases of the base, which are then no longer the base's (LoRA's `bias`)."""
    return bool(getattr(session.model.active_peft_config, "bias", "none") != "none")


def _apart(some: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference of two lists of log-likelihoods."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(some, others, strict=True))


def _tolerance(session: Session) -> float:
    """Relative noise of a score: of fp32, or of half precision, in which another batch may round otherwise."""
    return 1e-5 if session.model.dtype.itemsize >= 4 else 1e-2


def _proof(name: str, apart: float, tolerance: float, *, at_most: bool) -> dict[str, Any]:
    passed = apart <= tolerance if at_most else apart > tolerance
    sign = "at most" if at_most else "more than"
    return {
        "name": name,
        "passed": passed,
        "detail": f"log-likelihoods differ by {apart:.1e}, allowed: {sign} {tolerance:g}",
    }
