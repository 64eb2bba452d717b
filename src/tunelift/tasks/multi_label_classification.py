"""Classification with a head where several labels may apply to a text or a pair of texts, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from tunelift.config.schema import DataSection
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, LabelSet
from tunelift.data.columns import Reading, check_columns, given_texts
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import Layout, Said, Texts
from tunelift.data.render import RenderReport
from tunelift.data.template import as_text
from tunelift.fast.classifying import ClassLogits, accepted, rows_in
from tunelift.fast.undo import without_cache
from tunelift.metrics.label_sets import NEUTRAL, best_threshold
from tunelift.metrics.thresholds import Threshold
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

USUAL = ("labels", "label", "tags", "categories", "topics", "genres", "classes")
"""What people call a column of labels of which several may apply."""

_TRUTHS = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One or two texts, and a column with a list of labels in each row, or as text with a separator between."""

    texts: Texts
    labels: str
    separator: str | None

    @property
    def columns(self) -> Sequence[str]:
        return [*self.texts.columns, self.labels]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; one whose labels are missing, which an empty list is not, is left out."""
        said, value, place = self.texts(row, where), row.get(self.labels), f'{where}, column "{self.labels}"'
        if isinstance(value, str) and self.separator is None and value.lstrip().startswith("["):
            value = text_files.json_value(value, place)  # as a csv file or a database keeps a list
        if isinstance(value, str) and self.separator is not None:
            value = value.split(self.separator)
        if isinstance(said, str) or value is None:
            return said if isinstance(said, str) else "no labels"
        if not isinstance(value, list | tuple):
            raise InputError(
                f"{place}: a list of labels is expected, not {str(value)!r:.60}.",
                fix='Write lists (json, jsonl, parquet), or say what stands between labels, as --separator "|". Where '
                "one label applies to each text: --task sequence-classification.",
            )
        names = [as_text(label, place).strip() for label in value]
        if len(set(names)) < len(names) and all(name.lower() in _TRUTHS for name in names):
            raise InputError(
                f"{place}: {str(value)!r:.60} seems to say 1 or 0 of each label, and names of those that apply are "
                "expected.",
                fix="Write the names, or 1 and 0 into a column for each label: --label toxic,rude,other.",
            )
        return _wanted(said, [name for name in names if name], place)


@dataclass(frozen=True, slots=True)
class Marked:
    """One or two texts, and a column for each label that says by 1 or 0, or true or false, whether it applies."""

    texts: Texts
    labels: tuple[str, ...]

    @property
    def columns(self) -> Sequence[str]:
        return [*self.texts.columns, *self.labels]

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; one that does not say of each label whether it applies is left out."""
        said, applies = self.texts(row, where), []
        for label in self.labels:
            place = f'{where}, column "{label}"'
            text = as_text(row.get(label), place).strip().lower()
            if text and text not in _TRUTHS:
                raise InputError(f"{place}: 1 or 0 is expected, not {text!r:.60}.", fix="Or name one column of lists.")
            applies.append(_TRUTHS.get(text))
        if isinstance(said, str) or None in applies:
            return said if isinstance(said, str) else "no labels"
        return _wanted(said, [label for label, one in zip(self.labels, applies, strict=True) if one], where)


def _wanted(said: Example, labels: Sequence[str], where: str) -> Example:
    if wrong := [label for label in labels if LabelSet.JOIN in f" {label} "]:
        raise InputError(
            f"{where}: the label {wrong[0]!r:.60} holds {LabelSet.JOIN!r}, which joins labels.",
            fix="Write it otherwise; if it is several labels in one, name what stands between them: data.separator.",
        )
    wanted = LabelSet(tuple(sorted(set(labels))))
    return replace(said, completion=str(wanted), wanted=wanted)


def _choose(table: Table, section: DataSection) -> Layout | None:
    """Take the columns that data.label names, one of lists or several of 0 and 1, or that with a usual name."""
    if section.completion is not None:
        raise InputError(
            "data.completion writes a text, and this task learns labels.", fix="Name their column with data.label."
        )
    texts = given_texts(table, section)
    named = section.label or next((name for name in USUAL if name in table.columns), None)
    if texts is None or named is None:
        return None
    check_columns(texts.templates, table)
    if named in table.columns:
        return Labelled(texts, named, section.separator)
    names = [part.strip() for part in named.split(",") if part.strip()]
    if unknown := [name for name in names if name not in table.columns]:
        raise InputError(
            f"data.label names {listed(unknown)}, which {table.name} does not have.",
            fix=f"Its columns: {listed(table.columns)}. Name one of lists, or several of 0 and 1 with commas between.",
        )
    return Marked(texts, tuple(dict.fromkeys(names)))


class MultiLabelClassification(Task):
    name = "multi-label-classification"
    auto_class = "AutoModelForSequenceClassification"
    mapping = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
    peft_type = "SEQ_CLS"
    pipeline_tag = "text-classification"
    problem_type = "multi_label_classification"
    threshold = Threshold(
        metrics=("average_precision",),
        best=best_threshold,
        arises=bool,
        within=(0.0, 1.0),
        said="labels apply from the probability {} on",
        card="A label applies where the sigmoid of its output is at least {}.",
        neutral=NEUTRAL,
    )
    reading = Reading(_choose, labels=True)
    measures = ("label-set",)

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["f1_micro", "f1_macro", "f1_samples", "average_precision", "subset_accuracy", "loss"]

    def made_up(self) -> list[Example]:
        sets = [LabelSet(tuple(sorted({word, "even" if i % 2 else "odd"}))) for i, word in enumerate(MADE_UP)]
        return [Example(str(i), f"row {i}: {own}", str(own), None, own) for i, own in enumerate(sets)]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return {label for example in examples for label in _labels(example)}

    def begin(self, model: Any, examples: Sequence[Example], labels: Sequence[str], fresh: Sequence[str]) -> None:
        """Let a new head's last layer begin at how often each label applies (Lin et al. 2017, arXiv 1708.02002).

        From one half the first steps would push all items' outputs down alike, and their features with them.
        """
        if not examples or not fresh:
            return
        counts = Counter(label for example in examples for label in _labels(example))
        shares = [(counts[label] + 0.5) / (len(examples) + 1) for label in labels]
        for layer in trained_outputs(model, len(labels), fresh):
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.copy_(torch.tensor(shares, dtype=torch.float64).logit())

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        if unknown := sorted(self.labels_in(examples) - set(labels)):
            raise InputError(
                f"The data has labels that the model's head has not: {listed(unknown)}.",
                fix=f"The head knows {listed(labels)}. Name every label with data.labels.",
            )
        return text_rows(
            examples, tokenizer, max_length, lambda example: [float(label in _labels(example)) for label in labels]
        )

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        return text_batch(rows, torch.tensor([row.labels for row in rows], dtype=torch.float32), pad_id, device)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        """Return the binary cross-entropy, the mean over labels summed over the rows."""
        logits = ClassLogits(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            logits.check_training(some.inputs)

        def loss(batch: Batch) -> torch.Tensor:
            each = F.binary_cross_entropy_with_logits(logits(batch.inputs).float(), batch.labels, reduction="none")
            return each.mean(dim=1).sum()

        return loss, {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        logits = model(**accepted(model, row.batch.inputs), **without_cache(model)).logits.double()
        signs = 2 * row.batch.labels.double() - 1
        return -float(F.logsigmoid(signs * logits).mean())

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the labels that apply with those that the example's text joins."""
        applies = {label for label, one in zip(labels, row.batch.labels[0].tolist(), strict=True) if one == 1}
        said = set(row.example.completion.split(LabelSet.JOIN)) - {""}
        return applies == said and says_the_texts(row, tokenizer)


def _labels(example: Example) -> tuple[str, ...]:
    assert isinstance(example.wanted, LabelSet)
    return example.wanted.labels


TASKS.add(MultiLabelClassification.name, MultiLabelClassification())
