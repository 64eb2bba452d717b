"""What a task tells the rooms above it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.config.schema import PreferencesSection
from tunelift.core.records import Example, Pair
from tunelift.core.registry import Registry
from tunelift.data.columns import Reading
from tunelift.data.encoding import spelt_as_text
from tunelift.data.render import Renderer, RenderReport, Tokens
from tunelift.fast.classifying import ClassLogits, accepted, rows_in
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache
from tunelift.metrics.thresholds import Threshold


@dataclass(frozen=True, slots=True)
class Row:
    """One rendered example: token ids (T,), and what the task learns of it, such as one label per token (IGNORED
    outside the loss) or the index of a class. `segments` are the token types (T,), where it is of two texts. `beside`
    is what a model said of it before the training, where the task compares with that. Each target counts `weight`."""

    ids: Sequence[int]
    labels: Any
    segments: Sequence[int] | None = None
    beside: Any = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right. `inputs` are forward's tensors (B, T); `targets` is what the loss is divided by.

    `weights` (B,) is how much each of a row's targets counts, None where all count alike.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: int
    tokens: int
    targets: float
    weights: Tensor | None = None


Loss = Callable[[Batch], Tensor]
"""Differentiable sum of the loss over a batch's targets, in nats. One that has a method `over` is given all batches of
a step first, and returns the loss of each, by what it needs to know of the others (`fast/in_batch.py`)."""


@dataclass(frozen=True, slots=True)
class Learned:
    """An example, the batch (of its row alone, or rows) that training would make of it, and whether it was cut."""

    example: Example
    batch: Batch
    truncated: bool

    @property
    def targets(self) -> float:
        return self.batch.targets

    @property
    def ids(self) -> list[int]:
        """The row's token ids, (T,)."""
        return [int(token) for token in self.batch.inputs["input_ids"][0]]

    @property
    def counted(self) -> list[int]:
        """The positions whose labels the loss counts, in order."""
        return [at for at, label in enumerate(self.batch.labels[0].tolist()) if label != IGNORED]

    @property
    def rows(self) -> list[Learned]:
        """Each of several rows that the example makes by itself, in order, without padding."""
        lengths, found = self.batch.inputs["attention_mask"].sum(dim=1).tolist(), list[Learned]()
        for i, length in enumerate(lengths):
            inputs = {name: value[i : i + 1, :length] for name, value in self.batch.inputs.items()}
            labels = self.batch.labels[i : i + 1]
            labels = labels[:, :length] if labels.shape[1:2] == self.batch.inputs["input_ids"].shape[1:] else labels
            own = replace(self.batch, inputs=inputs, labels=labels, rows=1)
            found.append(replace(self, batch=own))
        return found


Shown = tuple[Tokens, str]
"""A row as people see it: its tokens, and what is said behind them."""


SINGLE_LABEL = "single_label_classification"

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
    peft_type: str | None
    """peft's task type; None where it has none, so that its model is that of any task."""
    reader: str = "AutoTokenizer"
    """The class of transformers that makes a model's inputs: of texts, or of pictures."""
    takes_tokens: bool = True
    """Whether a model takes a row's tokens as they are: no pixels, no rows for each option, none that is written."""
    pipeline_tag: str
    """The Hub's name of it, for the model card."""
    reading: Reading
    """What rows of a table mean to it."""
    measures: tuple[str, ...]
    """The names of what can be measured, the first that gives all that the metrics need is taken."""
    problem_type: str | None = None
    """What transformers calls it where a class of models serves several tasks: it would guess by the labels' dtype."""
    has_head: bool = True
    """Whether its models answer with a head of their own, which is kept with the adapter."""
    threshold: Threshold | None = None
    """How a number is chosen on validation rows that answers depend on besides the model; None where none is."""
    outputs: int | None = None
    """How many numbers a head gives whose outputs are no classes; classes have names, which labels of the data are."""
    natural: bool = True
    """Whether any model that fits is taken for it where no task is named; otherwise one whose head was saved for it."""
    reads_states: bool = False
    """Whether its models have no head: what is read are their last hidden states, and not what their pooler gives."""
    contrasts: bool = False
    """Whether the rows of a step are told apart from each other, so that it takes two of them."""
    next_token: bool = False
    """Whether what is learned of is each token's successor, so that its models continue text."""
    exact: bool = False
    """Whether its loss is of differences between scores: in eight bits their rounding does not cancel."""
    card_note: str = ""
    """What a reader of the model card should know to ask the model as it was asked here."""
    untuned: str = "the base model with a head that was not trained"
    """What the report calls the base."""

    @property
    def by_class(self) -> bool:
        """Whether a model's class tells that this is its task, where its config says nothing else."""
        return self.problem_type in (None, SINGLE_LABEL)

    @property
    def learns(self) -> str:
        """What adapters for it are: tasks of one such name take each other's."""
        return self.name

    @property
    def has_classes(self) -> bool:
        """Whether a head chooses among classes that have names, whose order is kept with the adapter."""
        return self.has_head and self.outputs is None

    def with_settings(self, settings: PreferencesSection) -> Task:
        """Return the task as these settings want it."""
        return self

    @property
    def about(self) -> Any:
        """What settings of its own make of it, as JSON has it."""
        return None

    @property
    def from_base(self) -> bool:
        """Whether it compares with the base although the training begins elsewhere."""
        return False

    def begins_alike(self, row: Row) -> int | None:
        """Return how many tokens at a row's beginning may be computed once for other rows too; None if never any."""
        return None

    def compared(self, row: Row) -> list[tuple[list[int], list[int]]]:
        """Return the prompts and answers in a row whose likelihood before the training it learns by: ids of each."""
        return []

    def proofs_of_start(self, model: Any, loss: Loss, batch: Batch) -> list[dict[str, Any]]:
        """Return what is proved on some rows before the first step, each {"name", "passed", "detail"}.

        Raises TuneliftError where a proof fails.
        """
        return []

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

    def opened(self, folder: Path, model: Any, tokenizer: Any) -> Any:
        """Return the model of a folder, knowing what else there says how it is used.

        Raises InputError for what is not known here.
        """
        return model

    def check(self, model: Any, examples: Sequence[Example], labels: Sequence[str]) -> None:  # noqa: B027  see begin
        """Raise InputError for training rows that a model cannot learn as it is, before anything is computed."""

    def begin(  # noqa: B027  most begin as they are
        self, model: Any, examples: Sequence[Example], labels: Sequence[str], fresh: Sequence[str]
    ) -> None:
        """Let what is trained begin where these training rows suggest; `fresh` are modules that the base's files lack.

        `model` is peft's, its adapter just put on, or the model itself where its own weights are trained.
        """

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

    def size(self, row: Row) -> int:
        """Return how many tokens are computed for a row."""
        return len(row.ids)

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
        inputs, where = accepted(model, row.batch.inputs), row.batch.labels != IGNORED
        logits = model(**inputs, **without_cache(model)).logits
        likely = logits[where].double().log_softmax(dim=-1)
        return -float(likely.gather(1, row.batch.labels[where][:, None]).sum())

    def plain_losses(self, rows: Sequence[Learned], model: Any) -> float:
        """Return the summed loss of rows that are one step together, as `plain_loss` takes it."""
        return sum(self.plain_loss(row, model) for row in rows)

    def to_prove(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return what the examples say, each by itself: of these some are proved on."""
        return examples

    @abstractmethod
    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Tell whether the labels that the loss counts are what the example wants, seen from outside."""


TASKS: Registry[Task] = Registry("task")


def text_rows(
    examples: Sequence[Example], tokenizer: Any, max_length: int, wanted: Callable[[Example], Any]
) -> tuple[list[Row], RenderReport]:
    """Render texts, or pairs of them, for a head; `wanted` gives what a row's labels are. Every row has one target."""
    report, renderer, rows = RenderReport(rows=len(examples)), Renderer(tokenizer, max_length), []
    for example in examples:
        tokens = renderer.head_tokens(example)
        report.truncated += tokens.truncated
        report.tokens += len(tokens.ids)
        rows.append(Row(tokens.ids, wanted(example), tokens.segments))
    report.tokens_in_loss = len(rows)
    return rows, report


def text_batch(rows: Sequence[Row], labels: Tensor, pad: int, device: torch.device) -> Batch:
    """Return a batch of rows of texts with their labels, (B, ...), each row one target."""
    inputs = pad_inputs(rows, pad, device)
    return Batch(inputs, labels.to(device), len(rows), sum(len(row.ids) for row in rows), len(rows))


def trained_outputs(model: Any, count: int, fresh: Sequence[str]) -> Iterator[Any]:
    """Yield the trained layers of `fresh` modules that give so many outputs: of a new head the last one.

    Others may give as many: LoRA's first matrix does where its rank is that number.
    """
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for name, module in model.named_modules():
        if not any(f".{part}." in f".{name}." for part in fresh):
            continue
        weight = dict(module.named_parameters(recurse=False)).get("weight")  # peft's wrapper gives those of others too
        if weight is not None and id(weight) in trained and getattr(module, "out_features", None) == count:
            yield module


def says_the_texts(row: Learned, tokenizer: Any) -> bool:
    """Tell whether a row's tokens are those of a pair's two texts in order, each in its own segment where it has any.

    Of a row that was cut they are the beginnings. A row of one text is not looked at.
    """
    given = row.example.given
    if not isinstance(given, Pair):
        return True
    how = spelt_as_text(tokenizer, (given.first, given.second))
    alone = (tokenizer(text, add_special_tokens=False, verbose=False, **how) for text in (given.first, given.second))
    first, second = (letters(tokenizer, found["input_ids"]) for found in alone)
    said = letters(tokenizer, row.ids)
    if row.truncated:
        begin = any(first.startswith(said[:at]) and second.startswith(said[at:]) for at in range(len(said) + 1))
    else:
        begin = said == first + second
    types = row.batch.inputs.get("token_type_ids")
    if types is None or not begin:
        return begin
    by_type = [[token for token, own in zip(row.ids, types[0].tolist(), strict=True) if own == one] for one in (0, 1)]
    parts = [letters(tokenizer, ids) for ids in by_type]
    return first.startswith(parts[0]) and second.startswith(parts[1]) and "".join(parts) == said


def letters(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return what tokens say, without special ones, blanks, and halves of characters at which a row was cut."""
    return "".join(tokenizer.decode(list(ids), skip_special_tokens=True).split()).replace("\ufffd", "")


def labelled_tokens(rows: Sequence[Row], pad: int, device: torch.device, first: int = 0) -> Batch:
    """Return a batch of rows that have a label for each token, (B, T), IGNORED at the padding; targets from `first`."""
    labels = padded([row.labels for row in rows], IGNORED, torch.device("cpu"))
    targets, tokens = int((labels[:, first:] != IGNORED).sum()), sum(len(row.ids) for row in rows)
    return Batch(pad_inputs(rows, pad, device), labels.to(device), len(rows), tokens, targets)


def pad_inputs(rows: Sequence[Row], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, each (B, T), padded on the right, and token_type_ids where rows have any."""
    return padded_inputs([row.ids for row in rows], pad, device, [row.segments for row in rows])


def padded_inputs(
    rows: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    segments: Sequence[Sequence[int] | None] = (),
) -> dict[str, Tensor]:
    """Return input_ids and attention_mask of rows of token ids, each (B, T), padded on the right.

    Where a row has `segments`, token_type_ids (B, T) stand beside them: 0 for rows without any, and at the padding.
    """
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    inputs = {"input_ids": padded(rows, pad, device), "attention_mask": mask.long().to(device)}
    if not any(segments):
        return inputs
    types = [own or [0] * len(row) for own, row in zip(segments, rows, strict=True)]
    return inputs | {"token_type_ids": padded(types, 0, device)}


def padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device, *, left: bool = False) -> Tensor:
    """Return the rows as one tensor (B, T), filled on the right, or on the left for generation."""
    width = max(len(row) for row in rows)
    out = torch.full((len(rows), width), fill, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, slice(width - len(row), None) if left else slice(0, len(row))] = torch.as_tensor(row, dtype=torch.long)
    return out.to(device)
