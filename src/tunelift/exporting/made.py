"""What is exported: a model in 32 bits with what was tuned on it, and what is known of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelift.exporting.checking import Asked
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.stock import values_of
from tunelift.model_facts.anatomy import base_of
from tunelift.tasks import Task


@dataclass
class Made:
    """A tuned model in memory. `model` is peft's, or one whose own weights were tuned; merging uses it up.

    `ends` are the ids that end an answer, `chats` says that it answers through its chat template, `folder` is where
    what was tuned lies, and `base_scores` gives the base's numbers of items.
    """

    model: Any
    tokenizer: Any
    task: Task
    name: str
    folder: Path
    ends: list[int]
    chats: bool
    facts: Mapping[str, Any]
    base_scores: Callable[[Sequence[Item]], Scores]

    @property
    def adapted(self) -> bool:
        """Whether an adapter is on, which nothing has merged."""
        return hasattr(self.model, "peft_config")

    def scores(self, items: Sequence[Item]) -> Scores:
        """Return the numbers of items by the stock forward pass, one row at a time.

        An adapter is in the base's layers: peft's own forward for question answering (0.21) drops token types.
        """
        model = base_of(self.model)
        return {item.name: values_of(model, item.ids, item.targets, item.segments) for item in items}


@dataclass(frozen=True)
class Rows:
    """Test items to prove an export on, and those to judge a rounded file by.

    `about` has input and reference of each by name; with `labels` each test item is there once for each of them, as
    "NAME/INDEX".
    """

    asked: Asked
    test: Sequence[Item]
    names: Sequence[str]
    labels: Sequence[str]
    about: Mapping[str, tuple[str, str]]
