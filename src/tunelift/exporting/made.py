"""What is exported: a model in 32 bits with what was tuned on it, and what is known of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunelift.exporting.checking import Asked
from tunelift.exporting.equality import Item, Scores
from tunelift.exporting.stock import values_of
from tunelift.model_facts.anatomy import base_of
from tunelift.model_facts.pooling import pooling_of
from tunelift.tasks import Task


@dataclass
class Made:
    """A tuned model in memory. `model` is peft's, or one whose own weights were tuned; merging uses it up.

    `ends` are the ids that end an answer, `chats` says that it answers through its chat template, `folder` is where
    what was tuned lies, and `base_scores` gives the base's numbers of items. `with_base` calls a function with the base
    in memory, and `measured` measures the test items with another model in this one's place, as the run did.
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
    with_base: Callable[[Callable[[Any], None]], None]
    measured: Callable[[Any], Any]

    @property
    def adapted(self) -> bool:
        """Whether an adapter is on, which nothing has merged."""
        return hasattr(self.model, "peft_config")

    def scores(self, items: Sequence[Item]) -> Scores:
        """Return the numbers of items by the stock forward pass, one row at a time.

        An adapter is in the base's layers: peft's own forward for question answering (0.21) drops token types.
        """
        return values(self.task, self.model, items)

    @property
    def lineage(self) -> dict[str, Any]:
        """What a folder of weights says of what it was made of."""
        return {"base": self.facts["made_of"]["model"], "task": self.task.name, "labels": self.facts["labels"]}


def values(task: Task, model: Any, items: Sequence[Item]) -> Scores:
    """Return the numbers of items by a model's stock forward pass; of a sentence model its vectors."""
    base = base_of(model)
    if not task.reads_states:
        return {item.name: values_of(base, item.ids, item.targets, item.segments) for item in items}
    pooling = pooling_of(base)
    found = dict[str, list[float]]()
    for item in items:
        ids = torch.tensor([item.ids], device=base.device)
        with torch.inference_mode():
            states = base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            found[item.name] = pooling(states, torch.ones_like(ids))[0].tolist()
    return found


@dataclass(frozen=True)
class Rows:
    """Test items to prove an export on, and those to judge a rounded file by.

    `about` has input and reference of each by name; with `labels` each test item is there once for each of them, as
    "NAME/INDEX". `longest` is how many tokens a text was cut to when the run was measured.
    """

    asked: Asked
    test: Sequence[Item]
    names: Sequence[str]
    labels: Sequence[str]
    about: Mapping[str, tuple[str, str]]
    longest: int = 0
