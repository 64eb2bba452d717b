"""What a task tells the rooms above it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.core.records import Example
from tunelift.core.registry import Registry
from tunelift.data.columns import Reading
from tunelift.data.render import Renderer, RenderReport, Tokens
from tunelift.fast.classifying import ClassLogits, rows_in
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered example: token ids (T,), and what the task learns of it, such as one label per token (IGNORED
    outside the loss) or the index of a class."""

    ids: Sequence[int]
    labels: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right. `inputs` are forward's tensors (B, T); `targets` is what the loss is divided by."""

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: int
    tokens: int
    targets: int


Loss = Callable[[Batch], Tensor]
"""Differentiable sum of the loss over a batch's targets, in nats."""


@dataclass(frozen=True, slots=True)
class Learned:
    """An example, the batch (of this row alone) that training would make of it, and whether it was cut."""

    example: Example
    batch: Batch
    truncated: bool

    @property
    def targets(self) -> int:
        return self.batch.targets

    @property
    def ids(self) -> list[int]:
        """The row's token ids, (T,)."""
        return [int(token) for token in self.batch.inputs["input_ids"][0]]

    @property
    def counted(self) -> list[int]:
        """The positions whose labels the loss counts, in order."""
        return [at for at, label in enumerate(self.batch.labels[0].tolist()) if label != IGNORED]


Shown = tuple[Tokens, str]
"""A row as people see it: its tokens, and what is said behind them."""


MADE_UP = ("left", "right") * 4
"""Words of examples that are made up: their labels, where there are any."""


class Task(ABC):
    """A kind of work: all that the rooms above must know of it. Each has a file in this folder, which adds it to TASKS.

    What is not abstract suits a task with a head: a text in, a label of a few out.
    """

    name: str
    auto_class: str
    """The class of transformers that loads its models, such as "AutoModelForCausalLM"."""
    mapping: str
    """What transformers calls its table of their classes by model type."""
    peft_type: str
    pipeline_tag: str
    """The Hub's name of it, for the model card."""
    reading: Reading
    """What rows of a table mean to it."""
    measures: tuple[str, ...]
    """The names of what can be measured, the first that gives all that the metrics need is taken."""
    has_head: bool = True
    """Whether its models choose among classes with a head of their own, whose order is kept with the adapter."""
    next_token: bool = False
    """Whether the loss is that of each token's successor, so that its models continue text."""
    untuned: str = "the base model with a head that was not trained"
    """What the report calls the base."""

    def fits(self, config: Any) -> bool:
        """Tell whether models of this transformers config can do it."""
        return config.model_type in self.classes()

    def classes(self) -> Mapping[str, str | tuple[str, ...]]:
        """Return the names of transformers' classes for it by model type."""
        from transformers.models.auto import modeling_auto

        found: Mapping[str, str | tuple[str, ...]] = getattr(modeling_auto, self.mapping)
        return found

    def is_class(self, name: str) -> bool:
        """Tell whether transformers' class of this name does it, or another that is called so."""
        ours = any(name == known or (isinstance(known, tuple) and name in known) for known in self.classes().values())
        return ours or name.endswith(self.auto_class.removeprefix("AutoModel"))

    @abstractmethod
    def metrics(self, examples: Sequence[Example]) -> list[str]:
        """Return the names of the metrics that suit these rows."""

    def made_up(self) -> list[Example]:
        """Return a few examples of its kind, for what is to be tried without anybody's rows."""
        return [Example(str(i), f"row {i}: {word} {i}", word) for i, word in enumerate(MADE_UP)]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        """Return the labels that examples want."""
        return {example.completion for example in examples}

    @abstractmethod
    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        """Render examples for training; raise InputError if no row is left. `labels` are the classes of a head."""

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        """Return what is to be said of all rows, and some of them to show: the text, and its label behind it."""
        renderer = Renderer(tokenizer, max_length)
        return [], [(renderer.head_tokens(example), f" -> {example.completion}") for example in examples[:most]]

    @abstractmethod
    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        """Pad rows to one batch on `device`."""

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        """Return the loss of this model, and the fast paths it takes ("on" or "off: reason", by name).

        `some` rows tell which tokens to expect, where that makes the loss cheaper.
        """
        logits = ClassLogits(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            logits.check_training(some.inputs)

        def loss(batch: Batch) -> Tensor:
            where = batch.labels != IGNORED
            return F.cross_entropy(logits(batch.inputs)[where].float(), batch.labels[where], reduction="sum")

        return loss, {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        """Return the loss of one row (nats) from the stock model's own logits, in fp64, without any fast path."""
        logits, where = model(**row.batch.inputs, **without_cache(model)).logits, row.batch.labels != IGNORED
        likely = logits[where].double().log_softmax(dim=-1)
        return -float(likely.gather(1, row.batch.labels[where][:, None]).sum())

    @abstractmethod
    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Tell whether the labels that the loss counts are what the example wants, seen from outside."""


TASKS: Registry[Task] = Registry("task")


def labelled_tokens(rows: Sequence[Row], pad: int, device: torch.device, first: int = 0) -> Batch:
    """Return a batch of rows that have a label for each token, (B, T), IGNORED at the padding; targets from `first`."""
    labels = padded([row.labels for row in rows], IGNORED, torch.device("cpu"))
    targets, tokens = int((labels[:, first:] != IGNORED).sum()), sum(len(row.ids) for row in rows)
    return Batch(pad_inputs(rows, pad, device), labels.to(device), len(rows), tokens, targets)


def pad_inputs(rows: Sequence[Row], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, each (B, T), padded on the right."""
    return padded_inputs([row.ids for row in rows], pad, device)


def padded_inputs(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Return input_ids and attention_mask of rows of token ids, each (B, T), padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return {"input_ids": padded(rows, pad, device), "attention_mask": mask.long().to(device)}


def padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device, *, left: bool = False) -> Tensor:
    """Return the rows as one tensor (B, T), filled on the right, or on the left for generation."""
    width = max(len(row) for row in rows)
    out = torch.full((len(rows), width), fill, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, slice(width - len(row), None) if left else slice(0, len(row))] = torch.as_tensor(row, dtype=torch.long)
    return out.to(device)
