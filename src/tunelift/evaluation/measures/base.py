"""What every measure has: the items of one evaluation, and the passes over them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, Self

from tunelift.core import progress
from tunelift.core.records import Example
from tunelift.core.registry import Registry
from tunelift.data.render import Renderer
from tunelift.evaluation.plan import Plan
from tunelift.evaluation.rows import Found, answered
from tunelift.model_facts.anatomy import base_of, context_length

Compute = Callable[[Sequence[int], progress.Advance], dict[int, Found]]
"""Computes the items of these indices."""


class Measure(ABC):
    """The examples of one evaluation, and what is computed of them.

    `fitting` are the indices of the items that fit the model's `context` (tokens), of which an adapter may take some:
    `whole` is the base's, to which rows are cut whatever is on. `fast_paths` are "on" or "off: reason" by name, known
    when `prepared` was called.
    """

    gives: ClassVar[frozenset[str]]
    """What of metrics' needs it satisfies."""
    at_once: ClassVar[int] = 256
    """Items computed before they are written to the cache: an evaluation that is cut off loses no more than these."""
    passes: ClassVar[int] = 1
    """How often each item is gone through, for the progress bar."""
    generates: ClassVar[bool] = False
    """Whether the model answers in words of its own."""
    compares: ClassVar[bool] = False
    """Whether answers that are given are compared."""
    ranks: ClassVar[bool] = False
    """Whether an answer is chosen from labels that are texts."""

    def __init__(self, model: Any, tokenizer: Any, examples: Sequence[Example], plan: Plan, title: str) -> None:
        self.model, self.tokenizer, self.examples, self.plan = model, tokenizer, examples, plan
        self.title = title
        self.context, self.whole = context_length(model, tokenizer), context_length(base_of(model), tokenizer)
        self.fast_paths: dict[str, str] = {}
        self.fitting: Sequence[int] = range(len(examples))
        self.begin()

    @classmethod
    def tells_probabilities(cls, plan: Plan) -> bool:
        """Whether rows of this plan say how likely an answer is among those that could be given."""
        return "label-probabilities" in cls.gives

    @cached_property
    def renderer(self) -> Renderer:
        """What makes tokens of texts."""
        return Renderer(self.tokenizer, min(self.plan.max_length, self.whole))

    def on(self, model: Any, title: str) -> Self:
        """Return the same items, as they are, to be measured on a model with the same tokenizer and context."""
        other = copy(self)
        other.model, other.title, other.fast_paths = model, title, {}
        return other

    @abstractmethod
    def begin(self) -> None:
        """Make tokens of the examples, and say which fit."""

    @abstractmethod
    def length(self, i: int) -> int:
        """Return the tokens of the longest row that item `i` makes."""

    @abstractmethod
    def key(self, i: int) -> Any:
        """Return what an item's values depend on besides the context of the cache, as JSON has it."""

    @abstractmethod
    def how(self) -> Mapping[str, Any]:
        """Return what must agree between two results besides the task and the items, for them to be comparable."""

    def prompt(self) -> Any:
        """Return what the items ask, as JSON has it: it must agree as well."""
        return [example.prompt for example in self.examples]

    def beside(self) -> Mapping[str, Any]:
        """Return what else an item's values depend on, as JSON has it."""
        return {}

    def noted(self) -> Mapping[str, Any]:
        """Return what a reader of the results should know besides."""
        return {}

    @abstractmethod
    def prepared(self) -> Compute:
        """Try the fast paths on a sample; return what computes the items."""

    def row(self, i: int, found: Found | None) -> dict[str, Any]:
        """Return what item `i`'s row says of its answer: prediction and values, or why it is unscored."""
        return answered(self.examples[i], found, self.plan.metrics)


MEASURES: Registry[type[Measure]] = Registry("measure")


def short_hash(value: Any) -> str:
    """Return 16 hex digits that stand for a value of JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def labels_how(plan: Plan) -> dict[str, Any]:
    """Return what is noted of the labels that an answer is chosen from."""
    labels = short_hash(sorted(plan.labels))
    return {"score": plan.label_score, "labels": len(plan.labels), "labels_hash": labels}
