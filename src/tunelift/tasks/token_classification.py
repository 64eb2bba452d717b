"""Token classification: a tag for each word, as of named entities and parts of speech.

A text is read as its words with blanks between. A word's tag is learned and asked for at the first token that has a
letter of it, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Tags, Words
from tunelift.data.columns import Reading
from tunelift.data.encoding import spelt_as_text
from tunelift.data.formats import TAGS, TOKENS, Table, TableRow
from tunelift.data.layouts import Layout, Said
from tunelift.data.refused_columns import refuse_preferences
from tunelift.data.render import RenderReport, Tokens
from tunelift.data.template import as_text
from tunelift.fast.targets import IGNORED
from tunelift.metrics.tags import marks_entities, scheme
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Row, Shown, Task, labelled_tokens, letters


@dataclass(frozen=True, slots=True)
class Tagged:
    """A column of words and a column of their tags, each a list in every row."""

    words: str
    tags: str

    @property
    def columns(self) -> Sequence[str]:
        return (self.words, self.tags)

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError for lists of different lengths, and for tags with blanks."""
        words, tags = (_texts(row.get(name), f'{where}, column "{name}"') for name in self.columns)
        if len(words) != len(tags):
            raise InputError(
                f"{where}: {len(words)} words ({self.words}) and {len(tags)} tags ({self.tags}).",
                fix="Each word has one tag.",
            )
        if wrong := [tag for tag in tags if len(tag.split()) != 1]:
            raise InputError(f"{where}: {wrong[0]!r} is no tag: it is empty, or has blanks.")
        words_alone = [" ".join(word.split()) for word in words]
        kept = [(word, tag) for word, tag in zip(words_alone, tags, strict=True) if word]
        given, wanted = Words(tuple(word for word, _ in kept)), Tags(tuple(tag for _, tag in kept))
        return Example("", str(given), str(wanted), given, wanted) if kept else "no words"

    def notes(self, table: Table, group: str | None) -> list[str]:
        """Say by which scheme the tags mark entities, and what is read otherwise than it means."""
        found = scheme(row[self.tags] for row in table.rows if _is_texts(row.get(self.tags)))
        more = ": two of one type side by side are read as one, as seqeval does by default" * (found == "BILOU")
        return [f"the tags mark entities by {found}{more}"] if found else []


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(tag, str) and tag for tag in value)


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(
            f"{where}: a list is expected, one text for each word, not {type(value).__name__}.",
            fix="Write the words and their tags as lists (json, jsonl, parquet), or a token and its tag on each line "
            "of a .conll file.",
        )
    return [as_text(part, where) for part in value]


def _choose(table: Table, section: DataSection) -> Layout:
    """Take the columns that data.text and data.label name, or those with the usual names."""
    if any(value is not None for value in (section.prompt, section.completion, section.text_pair)):
        raise InputError(
            "data.prompt, data.completion and data.text_pair make texts, and this task tags words.",
            fix="Name the columns of words and tags with data.text and data.label.",
        )
    tags = [TAGS, "ner_tags", *(name for name in table.columns if name.endswith("tags")), "labels"]
    usual = {"text": [TOKENS, "words"], "label": tags}
    there = {key: next((name for name in names if name in table.columns), None) for key, names in usual.items()}
    named = {key: getattr(section, key) or name for key, name in there.items()}
    missing = [f"data.{key}" for key, name in named.items() if name not in table.columns]
    if missing:
        raise InputError(
            f"{table.name} has the columns {listed(table.columns)}: {listed(missing)} must name that of words or tags.",
            fix="Such as --text tokens --label ner_tags.",
        )
    return Tagged(str(named["text"]), str(named["label"]))


def words_to_tokens(example: Example, tokenizer: Any, max_length: int) -> tuple[Tokens, list[int | None]]:
    """Return a text's tokens, cut to `max_length`, and for each word the place of its first token, None without one.

    Raises InputError for a tokenizer that does not say where in the text its tokens lie.
    """
    assert isinstance(example.given, Words)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens lie, so words have none of their own.",
            fix="Take a model with a tokenizer.json.",
        )
    words = example.given.words
    starts = [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    owner = {start + n: i for i, start in enumerate(starts) for n in range(len(words[i]))}
    how = {"return_offsets_mapping": True, "verbose": False, **spelt_as_text(tokenizer, [example.prompt])}
    whole = tokenizer(example.prompt, **how)
    cut = whole
    if len(whole["input_ids"]) > max_length:
        cut = tokenizer(example.prompt, truncation=True, max_length=max_length, **how)
    firsts: dict[int, int] = {}
    for place, (start, end) in enumerate(cut["offset_mapping"]):
        word = next((owner[at] for at in range(start, end) if at in owner), None)
        if word is not None:
            firsts.setdefault(word, place)
    ids, read = list(cut["input_ids"]), set(firsts.values())
    tokens = Tokens(ids, [place in read for place in range(len(ids))], len(whole["input_ids"]))
    return tokens, [firsts.get(word) for word in range(len(words))]


class TokenClassification(Task):
    name = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    mapping = "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"
    peft_type = "TOKEN_CLS"
    pipeline_tag = "token-classification"
    reading = Reading(_choose, refuse=(refuse_preferences,))
    measures = ("tags",)

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return [*["seqeval_f1"] * marks_entities(self.labels_in(examples)), "token_accuracy", "loss"]

    def made_up(self) -> list[Example]:
        said = [(("row", str(i), word), ("O", "O", word)) for i, word in enumerate(MADE_UP)]
        return [
            Example(str(i), " ".join(words), " ".join(tags), Words(words), Tags(tags))
            for i, (words, tags) in enumerate(said)
        ]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return {tag for example in examples for tag in _tags(example)}

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        index = {label: i for i, label in enumerate(labels)}
        if unknown := sorted(self.labels_in(examples) - index.keys()):
            raise InputError(
                f"The data has tags that the model's head has not: {listed(unknown)}.",
                fix=f"The head knows {listed(labels)}. Name every tag with data.labels.",
            )
        rows, report = [], RenderReport(rows=len(examples))
        for example in examples:
            tokens, firsts = words_to_tokens(example, tokenizer, max_length)
            own = [IGNORED] * len(tokens.ids)
            for place, tag in zip(firsts, _tags(example), strict=True):
                if place is not None:
                    own[place] = index[tag]
            if not any(tokens.in_loss):
                report.dropped += 1
                continue
            rows.append(Row(tokens.ids, own))
            report.truncated += tokens.truncated
            report.tokens += len(tokens.ids)
            report.tokens_in_loss += sum(tokens.in_loss)
        if not rows:
            raise InputError("No row is left to train on: no word has a token.", fix="Look at them: tunelift data")
        report.dropped_reasons = {"no word has a token": report.dropped} if report.dropped else {}
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        some = [(words_to_tokens(example, tokenizer, max_length)[0], example.completion) for example in examples[:most]]
        return [], [(tokens, f" -> {tags}") for tokens, tags in some]

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        return labelled_tokens(rows, pad_id, device)

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the classes with the tags, and the tokens from each counted one to the next with its word."""
        assert isinstance(row.example.given, Words)
        ids, counted, words = row.ids, row.counted, row.example.given.words
        _, firsts = words_to_tokens(row.example, tokenizer, len(ids))
        read = [i for i, place in enumerate(firsts) if place is not None]  # others are cut off, or have no token
        tags = [labels[int(row.batch.labels[0][at])] for at in counted]
        if tags != [_tags(row.example)[i] for i in read]:
            return False
        said = [letters(tokenizer, ids[at:end]) for at, end in zip(counted, [*counted[1:], len(ids)], strict=True)]
        how = spelt_as_text(tokenizer, words)
        alone = [letters(tokenizer, tokenizer(words[i], add_special_tokens=False, **how)["input_ids"]) for i in read]
        return said[:-1] == alone[:-1] and (row.truncated or said == alone)  # the cut may go through a word


def _tags(example: Example) -> tuple[str, ...]:
    return example.wanted.tags if isinstance(example.wanted, Tags) else ()


TASKS.add(TokenClassification.name, TokenClassification())
