"""Multiple choice with a head: it gives a number for what is asked with each option, and the highest wins.

Items may have different numbers of options: each option is a row of its own, and the loss is over those of an item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunelift.config.schema import DataSection
from tunelift.core.records import Example, Options, Pair
from tunelift.data.columns import Reading
from tunelift.data.formats import Table
from tunelift.data.layouts import Layout
from tunelift.data.options import chosen_options
from tunelift.data.render import Renderer, RenderReport, Tokens
from tunelift.fast.classifying import ClassLogits, accepted, rows_in, with_one_option
from tunelift.fast.undo import without_cache
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Loss, Row, Shown, Task, pad_inputs, says_the_texts

RIGHT, WRONG = "right", "wrong"


def _choose(table: Table, section: DataSection) -> Layout | None:
    return chosen_options(table, section, continued=False)


def options_in(example: Example) -> Options:
    """Return what is asked and the options of an example of this task."""
    assert isinstance(example.given, Options)
    return example.given


def each_option(example: Example) -> list[Example]:
    """Return an example for each option, in their order: the pair of what is asked and the option, right or wrong."""
    given, parts = options_in(example), list[Example]()
    for text in given.texts:
        pair, said = Pair(given.asked, text.strip()), RIGHT if text == example.completion else WRONG
        parts.append(replace(example, prompt=str(pair), completion=said, given=pair))
    return parts


def encoded_options(example: Example, renderer: Renderer) -> list[Tokens]:
    """Return the row of tokens that each option makes behind what is asked; a tokenizer's special tokens around."""
    return [renderer.head_tokens(part) for part in each_option(example)]


class MultipleChoice(Task):
    name = "multiple-choice"
    auto_class = "AutoModelForMultipleChoice"
    mapping = "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES"
    peft_type = None
    takes_tokens = False
    pipeline_tag = "multiple-choice"
    reading = Reading(_choose, options=True)
    measures = ("chosen-option",)
    outputs = 1
    natural = False
    card_note = (
        "The model is asked with all options of an item at once: `input_ids` (items, options, tokens), what is asked "
        "and an option as a pair of texts in each row; it gives `logits` (items, options)."
    )

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["accuracy", "loss"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def made_up(self) -> list[Example]:
        texts = ("left", "right", "up")
        given = [Options(f"row {i}: where is {word} {i}?", texts[: 2 + i % 2]) for i, word in enumerate(MADE_UP)]
        return [Example(str(i), str(o), word, o) for i, (word, o) in enumerate(zip(MADE_UP, given, strict=True))]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        """Return a row for each item: the tokens of its options one after another, their lengths and the right one."""
        report, renderer, rows = RenderReport(rows=len(examples)), Renderer(tokenizer, max_length), list[Row]()
        for example in examples:
            some = encoded_options(example, renderer)
            ids = [token for tokens in some for token in tokens.ids]
            segments = None
            if any(tokens.segments for tokens in some):
                segments = [kind for tokens in some for kind in tokens.segments or [0] * len(tokens.ids)]
            right = options_in(example).texts.index(example.completion)
            rows.append(Row(ids, ([len(tokens.ids) for tokens in some], right), segments))
            report.truncated += any(tokens.truncated for tokens in some)
            report.tokens += len(ids)
        report.tokens_in_loss = len(rows)
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        renderer, found = Renderer(tokenizer, max_length), list[Shown]()
        for example in examples[:most]:
            for part, tokens in zip(each_option(example), encoded_options(example, renderer), strict=True):
                found.append((tokens, f" -> {part.completion}"))
        return [], found

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        """Return a row (N, T) for each option of each item; its label (N,) is twice the item's number, 1 more if right.

        Every item is one target.
        """
        apart, labels = list[Row](), list[int]()
        for item, row in enumerate(rows):
            (lengths, right), done = row.labels, 0
            for option, length in enumerate(lengths):
                segments = None if row.segments is None else row.segments[done : done + length]
                apart.append(Row(row.ids[done : done + length], None, segments))
                labels.append(2 * item + (option == right))
                done += length
        inputs, tokens = pad_inputs(apart, pad_id, device), sum(len(row.ids) for row in rows)
        return Batch(inputs, torch.tensor(labels, device=device), len(rows), tokens, len(rows))

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        """Return the cross-entropy of the right option among those of its item, summed over items."""
        logits = ClassLogits(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            logits.check_training(some.inputs)
        return lambda batch: _loss(logits(batch.inputs)[:, 0].float(), batch.labels), {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        """Ask for each option by itself, so that nothing is padded."""
        said = []
        for own in row.rows:
            inputs = with_one_option(accepted(model, own.batch.inputs))
            said.append(model(**inputs, **without_cache(model)).logits[0, 0].double())
        return float(_loss(torch.stack(said), row.batch.labels))

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare what each row says with what is asked and an option, and the one that is right with the answer."""
        parts, own = each_option(row.example), row.rows
        if len(parts) != len(own):
            return False
        told = zip(own, parts, strict=True)
        texts = all(says_the_texts(replace(part, example=example), tokenizer) for part, example in told)
        return texts and (row.batch.labels % 2).tolist() == [int(part.completion == RIGHT) for part in parts]


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed loss (nats) of items whose options have these logits (N,), side by side; see `collate`."""
    items, right = labels // 2, labels % 2 == 1
    count = int(items[-1]) + 1
    table = logits.new_full((count, int(torch.bincount(items).max())), -torch.inf)
    first = torch.searchsorted(items, torch.arange(count, device=items.device))
    places = torch.arange(len(items), device=items.device) - first[items]
    table = table.index_put((items, places), logits)
    return (table.logsumexp(dim=1) - logits[right]).sum()


TASKS.add(MultipleChoice.name, MultipleChoice())
