"""What every baseline is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunelift.core.records import Example, Scores
from tunelift.evaluation.plan import Plan


@dataclass(frozen=True, slots=True)
class Given:
    """What a baseline may know: the base model and the training rows. The rows to answer come with `score`.

    `model` is the base, its adapter off; `shots` are the rows in the few-shot prompt; `made_with` goes into the scores.
    """

    model: Any
    tokenizer: Any
    train: Sequence[Example]
    plan: Plan
    shots: int
    seed: int
    made_with: Mapping[str, Any]

    def made_by(self, name: str, description: str) -> dict[str, Any]:
        """Return what the scores of a baseline were made with."""
        return {**self.made_with, "baseline": {"name": name, "description": description}}


class Baseline(Protocol):
    """Something that is not tuned and answers the same items; `description` says to people what it is."""

    @property
    def description(self) -> str: ...

    def score(self, examples: Sequence[Example], title: str) -> Scores:
        """Return one row per example and the aggregates of the metrics that this baseline can give."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of baseline: `misfit` says why it does not suit the plan and the training rows, None where it does."""

    misfit: Callable[[Plan, Sequence[Example]], str | None]
    make: Callable[[Given], Baseline]
