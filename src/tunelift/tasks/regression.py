"""Regression with a head on an encoder or a decoder: a number for a text or a pair of texts, or several.

The loss is the mean squared error of the numbers as they are, so that a head says them in the user's units whoever
loads it. To be in reach from the first step, a new head begins at the mean of the training rows, and its weights are
as large as their spread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from tunelift.config.schema import DataSection
from tunelift.core import progress
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Numbers
from tunelift.data.columns import Reading, check_columns, given_texts
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import Layout, Said, Texts
from tunelift.data.render import RenderReport
from tunelift.fast.classifying import ClassLogits, accepted, rows_in
from tunelift.fast.undo import without_cache
from tunelift.model_facts.parameters import compute_dtype, dtype_name
from tunelift.tasks.base import (
    MADE_UP,
    TASKS,
    Batch,
    Learned,
    Loss,
    Row,
    Task,
    says_the_texts,
    text_batch,
    text_rows,
    trained_outputs,
)

USUAL = ("score", "label", "labels", "similarity", "similarity_score", "relatedness_score", "target", "value", "rating")
"""What people call a column of numbers to be learned."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
LARGEST = 1e18
"""Losses are summed squares in float32, which ends at 3e38."""
TOLD_APART = 0.1
"""Steps between the numbers that a precision knows, in relation to their spread."""
FAR_OFF = 30.0
"""So many spreads away from zero a head without a bias is said to learn slowly."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """One or two texts, and the columns of the numbers that are wanted of them."""

    texts: Texts
    numbers: tuple[str, ...]

    @property
    def columns(self) -> Sequence[str]:
        return [*self.texts.columns, *self.numbers]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; one that lacks a number is left out. Raises InputError for what is no number."""
        said = self.texts(row, where)
        found = [number(row.get(name), f'{where}, column "{name}"') for name in self.numbers]
        if isinstance(said, str):
            return said
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            return "no number"
        wanted = Numbers(self.numbers, tuple(values))
        return replace(said, completion=str(wanted), wanted=wanted)


def number(value: Any, where: str) -> float | None:
    """Return the number that a cell says, None for an empty one; raise InputError for anything else.

    A missing number is None, NaN or an empty cell, as tables of floats have it. True and false are no numbers: whoever
    means 1 and 0 can say so.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InputError(
            f"{where}: a number is expected, not {str(value)!r:.60}.",
            fix="Write numbers with a decimal point and without separators; leave a cell empty where none is known. "
            "For true and false write 1 and 0, or take them for classes: --task sequence-classification.",
        )
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise InputError(f"{where}: {value!s:.60} is no finite number.", fix="Write the number, or leave it empty.")
    if abs(found) > LARGEST:
        raise InputError(
            f"{where}: {value!s:.60} is beyond {LARGEST:g}, and its square beyond what a loss in float32 can be.",
            fix="Bring the numbers to another scale, such as thousands or logarithms.",
        )
    return found


def _choose(table: Table, section: DataSection) -> Layout | None:
    """Take the columns that data.label names, one or several with commas between, or that with a usual name."""
    if section.completion is not None:
        raise InputError(
            "data.completion writes a text, and this task learns numbers.", fix="Name their columns with data.label."
        )
    texts = given_texts(table, section)
    if section.label is not None:
        whole = section.label in table.columns
        names = [section.label] if whole else [part.strip() for part in section.label.split(",") if part.strip()]
        if unknown := [name for name in names if name not in table.columns]:
            raise InputError(
                f"data.label names {listed(unknown)}, which {table.name} does not have.",
                fix=f"Its columns: {listed(table.columns)}. Several are named with commas between.",
            )
    else:
        names = [name for name in USUAL if name in table.columns and name not in (texts.columns if texts else ())]
        if len(names) > 1:
            raise InputError(
                f"{table.name} has several columns that may be the number: {listed(names)}.",
                fix="Name it with data.label, or several with commas between.",
            )
    if texts is None or not names:
        return None
    check_columns(texts.templates, table)
    return Numbered(texts, tuple(dict.fromkeys(names)))


class Regression(Task):
    name = "regression"
    auto_class = "AutoModelForSequenceClassification"
    mapping = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
    peft_type = "SEQ_CLS"
    pipeline_tag = "text-classification"
    problem_type = "regression"
    reading = Reading(_choose, labels=True)
    measures = ("numbers",)

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["rmse", "mae", "r2", "pearson", "spearman"]

    def made_up(self) -> list[Example]:
        wanted = [Numbers(("number",), (float(i),)) for i in range(len(MADE_UP))]
        return [Example(str(i), f"row {i}: {word}", str(wanted[i]), None, wanted[i]) for i, word in enumerate(MADE_UP)]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        """Return the names of the outputs."""
        return {name for example in examples for name in _wanted(example).names}

    def check(self, model: Any, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Raise InputError where the model's precision does not tell the numbers apart: it gives no finer ones."""
        dtype = compute_dtype(model)
        _, spread, largest = _moments(examples, labels)
        steps = largest * torch.finfo(dtype).eps
        for name, step, own in zip(labels, steps.tolist(), spread.tolist(), strict=True):
            if own > 0 and step > TOLD_APART * own:
                raise InputError(
                    f"In {dtype_name(dtype)} the model's head gives numbers in steps of {step:.3g} where those of "
                    f'"{name}" lie, and the training rows spread by {own:.3g}.',
                    fix="--dtype float32, or numbers with their mean taken off.",
                )

    def begin(self, model: Any, examples: Sequence[Example], labels: Sequence[str], fresh: Sequence[str]) -> None:
        """Let a new head's last layer begin at the mean of the rows, its weights as large as their spread."""
        if not examples or not fresh:
            return
        mean, spread, _ = _moments(examples, labels)
        for layer in trained_outputs(model, len(labels), fresh):
            with torch.no_grad():
                layer.weight.mul_(torch.where(spread > 0, spread, 1.0).to(layer.weight)[:, None])
                if layer.bias is not None:
                    layer.bias.copy_(mean)
            if layer.bias is None and bool((mean.abs() > FAR_OFF * spread).any()):
                progress.note(
                    "the model's head has no bias, and the numbers lie far from 0 beside their spread: it learns them "
                    "faster where their mean is taken off"
                )

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        return text_rows(examples, tokenizer, max_length, lambda example: values_of(example, labels))

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        return text_batch(rows, torch.tensor([row.labels for row in rows], dtype=torch.float32), pad_id, device)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        """Return the squared error, of several outputs their mean, summed over the rows."""
        logits = ClassLogits(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            logits.check_training(some.inputs)
        return lambda batch: ((logits(batch.inputs).float() - batch.labels) ** 2).mean(dim=1).sum(), {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        logits = model(**accepted(model, row.batch.inputs), **without_cache(model)).logits
        return float(((logits.double() - row.batch.labels.double()) ** 2).mean())

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the numbers with those that the example's text says, by their names."""
        numbers = map(float, row.example.completion.split())
        said = dict(zip(named(row.example, labels), numbers, strict=True))
        wanted = torch.tensor([said[name] for name in labels], dtype=torch.float32)
        return torch.equal(wanted, row.batch.labels[0].cpu()) and says_the_texts(row, tokenizer)


def _moments(examples: Sequence[Example], labels: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, standard deviation and largest absolute value of each output, (outputs,) each."""
    wanted = torch.tensor([values_of(example, labels) for example in examples], dtype=torch.float64)
    return wanted.mean(dim=0), wanted.std(dim=0, correction=0), wanted.abs().amax(dim=0)


def values_of(example: Example, names: Sequence[str]) -> list[float]:
    """Return an example's numbers in the order of the names; raise InputError where it lacks one of them."""
    known = dict(zip(named(example, names), _wanted(example).values, strict=True))
    if lacking := [name for name in names if name not in known]:
        raise InputError(
            f"The data has no number called {listed(lacking)}, which the model's head gives.",
            fix=f"It has {listed(known)}. Name the columns with data.label, or the head's outputs where it is loaded: "
            "tunelift.load(..., labels=[...]).",
        )
    return [known[name] for name in names]


def named(example: Example, names: Sequence[str]) -> Sequence[str]:
    """Return what a head with outputs of these names calls an example's numbers, in their order.

    Those of a head without names of its own, LABEL_0 and so on, are taken in the order of the data's columns.
    """
    own = _wanted(example).names
    unnamed = list(names) == [f"LABEL_{i}" for i in range(len(own))]
    return names if unnamed else own


def _wanted(example: Example) -> Numbers:
    assert isinstance(example.wanted, Numbers)
    return example.wanted


TASKS.add(Regression.name, Regression())
