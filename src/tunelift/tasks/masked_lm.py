"""Masked language modelling: the tokens of a text that were hidden, from those on both sides (Devlin et al. 2019).

What is hidden of a text follows from the text alone, so that base and tuned, and every epoch, see the same. A long text
makes as many rows as it takes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.columns import Reading, plain_text
from tunelift.data.encoding import spelt_as_text
from tunelift.data.formats import Table
from tunelift.data.layouts import Layout
from tunelift.data.render import RenderReport, Tokens
from tunelift.fast.targets import IGNORED
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Row, Shown, Task, labelled_tokens

SHARE = 0.15
"""Of the tokens that are asked for; of these 80% are hidden, 10% are another token, and 10% stay, as BERT learned."""
HIDDEN, OTHER = 0.8, 0.9


def _choose(table: Table, section: DataSection) -> Layout | None:
    if section.prompt is not None or section.completion is not None or section.label is not None:
        raise InputError(
            "Masked language modelling learns a text as it is, and has no use for data.prompt, data.completion and "
            "data.label.",
            fix='Name the text alone: --text text, or --text "{title}\\n{body}".',
        )
    column = section.text or ("text" if "text" in table.columns else None)
    return None if column is None else plain_text(column)


def masked_rows(text: str, tokenizer: Any, max_length: int) -> list[Row]:
    """Return a text's rows of at most `max_length` tokens: what the model sees, and the tokens that were there.

    Labels are IGNORED where nothing is asked. Rows in which nothing can be are left out. Raises InputError for a
    tokenizer without a token to hide others by, and for one that does not cut a text itself.
    """
    if tokenizer.mask_token_id is None:
        raise InputError("The tokenizer has no mask token.", fix="Take a model of masked language modelling.")
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not cut a text into rows.", fix="Take a model with a tokenizer.json."
        )
    how = {"return_overflowing_tokens": True, "verbose": False, **spelt_as_text(tokenizer, [text])}
    cut = tokenizer(text, truncation=True, max_length=max_length, **how)
    rows = (_masked(list(ids), tokenizer) for ids in cut["input_ids"])
    return [row for row in rows if row is not None]


def _masked(ids: list[int], tokenizer: Any) -> Row | None:
    special = set(tokenizer.all_special_ids)
    places = [at for at, token in enumerate(ids) if token not in special]
    if not places:
        return None
    draw = random.Random(hashlib.sha256(json.dumps(ids).encode()).hexdigest())
    asked = sorted(draw.sample(places, max(1, round(SHARE * len(places)))))
    seen, labels = list(ids), [IGNORED] * len(ids)
    for at in asked:
        labels[at], chance = ids[at], draw.random()
        other = draw.randrange(tokenizer.vocab_size)  # a special one at times, as in transformers' collator
        seen[at] = tokenizer.mask_token_id if chance < HIDDEN else other if chance < OTHER else ids[at]
    return Row(seen, labels)


class MaskedLM(Task):
    name = "masked-lm"
    auto_class = "AutoModelForMaskedLM"
    mapping = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
    peft_type = None
    pipeline_tag = "fill-mask"
    reading = Reading(_choose)
    measures = ("masked",)
    has_head = False
    natural = False
    untuned = "the base model as it is"

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["loss", "perplexity"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def made_up(self) -> list[Example]:
        return [Example(str(i), "", f"row {i} says {word}, and {word} again") for i, word in enumerate(MADE_UP)]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        rows, report, documents, pieces = list[Row](), RenderReport(rows=len(examples)), 0, 0
        for example in examples:
            own = masked_rows(example.completion, tokenizer, max_length)
            documents, pieces = documents + (len(own) > 1), pieces + len(own) * (len(own) > 1)
            report.dropped += not own
            rows += own
        if not rows:
            raise InputError("No row is left to train on: no text has a token.", fix="Look at them: tunelift data")
        report.dropped_reasons = {"no token to ask for": report.dropped} if report.dropped else {}
        report.tokens = sum(len(row.ids) for row in rows)
        report.tokens_in_loss = sum(label != IGNORED for row in rows for label in row.labels)
        longer = f"{documents} texts are longer than {max_length} tokens, and make {pieces} rows"
        report.notes = [longer] * bool(documents)
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        rows = [row for example in examples[:most] for row in masked_rows(example.completion, tokenizer, max_length)]
        return [], [
            (Tokens(list(row.ids), [label != IGNORED for label in row.labels], len(row.ids)), "") for row in rows[:most]
        ]

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        return labelled_tokens(rows, pad_id, device)

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the text, with the labels put back where they are asked for, and what is hidden elsewhere."""
        there = list[int]()
        for own in row.rows:
            asked = own.batch.labels[0].tolist()
            if not own.counted or any(
                seen == tokenizer.mask_token_id and label == IGNORED for seen, label in zip(own.ids, asked, strict=True)
            ):
                return False
            there += [seen if label == IGNORED else label for seen, label in zip(own.ids, asked, strict=True)]
        said, text = (_letters(tokenizer, ids) for ids in (there, _plain(tokenizer, row.example.completion)))
        return text.startswith(said) if row.truncated else said == text


def _plain(tokenizer: Any, text: str) -> list[int]:
    how = spelt_as_text(tokenizer, [text])
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **how)["input_ids"])


def _letters(tokenizer: Any, ids: Sequence[int]) -> str:
    return "".join(tokenizer.decode(list(ids), skip_special_tokens=True).split())


TASKS.add(MaskedLM.name, MaskedLM())
