"""Sentence embedding: vectors of texts that lie near each other where the texts belong together.

Rows are pairs of texts that belong together, maybe with texts that do not; texts with labels, of which those of one
label belong together; or pairs with a score of how near they are. Of scored pairs the order of the scores is learned
(CoSENT), of all others which text of a step is a row's own (`fast/in_batch.py` has both losses).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Near, Numbers, Pair
from tunelift.data.columns import Reading, check_columns, given_texts
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import Layout, Said, Templates, Texts
from tunelift.data.render import RenderReport, Tokens
from tunelift.data.template import Template
from tunelift.fast.classifying import ClassLogits, accepted, rows_in
from tunelift.fast.in_batch import ANCHOR, NEGATIVE, POSITIVE, InBatchLoss, ordered, ranked
from tunelift.fast.undo import without_cache
from tunelift.model_facts.pooling import pooling_of, remember
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Loss, Row, Shown, Task, letters, pad_inputs
from tunelift.tasks.regression import USUAL, number

ANCHORS = ("anchor", "query", "question", "sentence")
POSITIVES = ("positive", "pos")
NEGATIVES = re.compile(r"(hard_)?neg(ative)?(_?\d+)?")
"""What people call the columns of a text, of one that belongs to it, and of those that do not."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """A text and one that belongs to it, with the columns of others that do not; those of them may be empty."""

    texts: Texts
    negatives: tuple[str, ...]

    @property
    def columns(self) -> Sequence[str]:
        return [*self.texts.columns, *self.negatives]

    def __call__(self, row: TableRow, where: str) -> Said:
        said = self.texts(row, where)
        if isinstance(said, str):
            return said
        assert isinstance(said.given, Pair)
        filled = [Template(f"{{{name}}}", "a negative").fill(row, where) for name in self.negatives if row.get(name)]
        first, second = said.given.first, said.given.second
        wanted = Near(second, tuple(text for text in filled if text.strip()))
        return Example("", first, second, wanted=wanted, cluster=first)


@dataclass(frozen=True, slots=True)
class Scored:
    """Two texts, and the column of the score of how near they are."""

    texts: Texts
    score: str

    @property
    def columns(self) -> Sequence[str]:
        return [*self.texts.columns, self.score]

    def __call__(self, row: TableRow, where: str) -> Said:
        said = self.texts(row, where)
        found = number(row.get(self.score), f'{where}, column "{self.score}"')
        if isinstance(said, str) or found is None:
            return said if isinstance(said, str) else "no score"
        wanted = Numbers((self.score,), (found,))
        return replace(said, completion=str(wanted), wanted=wanted)


def _choose(table: Table, section: DataSection) -> Layout | None:
    if section.prompt is not None or section.completion is not None:
        raise InputError(
            "Sentence embedding learns which texts lie near each other, and writes no completion.",
            fix="Name the texts: --text and --text-pair, or --text and --label.",
        )
    if section.label is not None and section.label not in table.columns:
        raise InputError(
            f'data.label names "{section.label}", which {table.name} does not have.',
            fix=f"Its columns: {listed(table.columns)}.",
        )
    texts = _texts(table, section)
    if texts is None:
        return None
    check_columns(texts.templates, table)
    usual = [name for name in USUAL if name in table.columns and name not in texts.columns]
    label = section.label or next(iter(usual), None)
    if texts.second is None:
        return None if label is None else Templates(texts, Template(f"{{{label}}}", "data.label"), bare=True)
    negatives = tuple(name for name in table.columns if NEGATIVES.fullmatch(name) and name not in texts.columns)
    if label is None:
        return Belonging(texts, negatives)
    if negatives and section.label is None:
        raise InputError(
            f"{table.name} has negatives ({listed(negatives)}) and a score ({label}): either can be learned.",
            fix=f"--label {label} learns the scores; without that column the negatives are.",
        )
    return Scored(texts, label)


def _texts(table: Table, section: DataSection) -> Texts | None:
    """Return the texts by the settings, else by the names that people use."""
    if section.text is None and section.text_pair is None:
        names = [[name for name in some if name in table.columns] for some in (ANCHORS, POSITIVES)]
        if all(names):
            return Texts(*(Template(f"{{{some[0]}}}", "data.text") for some in names))
    return given_texts(table, section)


def paired(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with a text of the same label for each that has a label only; those that lack one are gone.

    Which text that is follows from the texts of a label alone: each is the positive of one other.
    """
    by_label: dict[str, list[Example]] = {}
    for example in examples:
        if example.wanted is None:
            by_label.setdefault(example.completion, []).append(example)
    partner = dict[tuple[str, str], str]()
    for label, some in by_label.items():
        texts = sorted({example.prompt for example in some})
        random.Random(label).shuffle(texts)
        turned = zip(texts, texts[1:] + texts[:1], strict=True) if len(texts) > 1 else ()
        partner |= {(label, text): other for text, other in turned}
    found = list[Example]()
    for example in examples:
        if example.wanted is not None:
            found.append(example)
        elif other := partner.get((example.completion, example.prompt)):
            wanted = Near(other, (), example.completion)
            found.append(replace(example, completion=wanted.positive, wanted=wanted))
    return found


def number_of(text: str) -> int:
    """Return a number (63 bits) that stands for a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def tokens_of(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Tokens]:
    """Return texts as the model reads them: its prompt before each, special tokens around it, cut to its length."""
    pooling = pooling_of(tokenizer)
    most = min(max_length, pooling.max_length or max_length)
    found = list[Tokens]()
    for text in texts:
        ids = list(tokenizer(pooling.text(text), verbose=False)["input_ids"])
        whole = len(ids)
        if whole > most:
            ids = list(tokenizer(pooling.text(text), truncation=True, max_length=most)["input_ids"])
        found.append(Tokens(ids, [False] * len(ids), whole))
    return found


class Vectors:
    """A model's vectors of batches of texts, as its files say that they are made: (texts, D) in float32."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]] = ()) -> None:
        self.states, self.pooling = ClassLogits(model, rows), pooling_of(model)

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.pooling(self.states(inputs), inputs["attention_mask"])


def said_texts(example: Example) -> list[str]:
    """Return the texts of a row in order: those of a scored pair, or anchor, positive and negatives."""
    if isinstance(example.given, Pair):
        return [example.given.first, example.given.second]
    assert isinstance(example.wanted, Near)
    return [example.prompt, example.wanted.positive, *example.wanted.negatives]


class SentenceEmbedding(Task):
    name = "sentence-embedding"
    auto_class = "AutoModel"
    mapping = "MODEL_MAPPING_NAMES"
    peft_type = "FEATURE_EXTRACTION"
    pipeline_tag = "sentence-similarity"
    reading = Reading(_choose, labels=True)
    measures = ("similarity", "retrieval")
    has_head = False
    natural = False
    reads_states = True
    contrasts = True
    untuned = "the base model as it is"
    card_note = (
        "sentence-transformers reads the folder whole, with how one vector is made of a text: "
        "`SentenceTransformer(FOLDER).encode([...])`, where the base of an adapter is what `adapter_config.json` names."
    )

    def fits(self, config: Any) -> bool:
        """Take models of text alone, of one stack of layers."""
        text = getattr(config, "vocab_size", None) is not None and not getattr(config, "is_encoder_decoder", False)
        return text and super().fits(config)

    def is_class(self, name: str) -> bool:
        return any(name == known or (isinstance(known, tuple) and name in known) for known in self.classes().values())

    def opened(self, folder: Path, model: Any, tokenizer: Any) -> Any:
        remember(folder, model, tokenizer)
        return model

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        if any(isinstance(example.wanted, Numbers) for example in examples):
            return ["spearman", "pearson"]
        return ["ndcg@10", "mrr@10", "hit@1", "recall@10"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def made_up(self) -> list[Example]:
        near = [Near(f"{word} {i} again", (f"none of {i}",)) for i, word in enumerate(MADE_UP)]
        return [Example(str(i), f"row {i}: {MADE_UP[i]}", own.positive, wanted=own) for i, own in enumerate(near)]

    def to_prove(self, examples: Sequence[Example]) -> Sequence[Example]:
        return paired(examples)

    def check(self, model: Any, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Raise InputError where no row has a text to lie near to, or no two rows differ in their score."""
        if not paired(examples):
            raise InputError(
                "No training row has a text that it is to lie near to: no label stands in two rows.",
                fix="Give pairs of texts (--text and --text-pair), or labels that come again.",
            )
        pairs = [(example, example.wanted) for example in paired(examples) if isinstance(example.wanted, Near)]
        groups = {example.prompt if near.kind is None else near.kind for example, near in pairs}
        told_apart = len(groups) > 1 and len({near.positive for _, near in pairs}) > 1
        if pairs and not told_apart and not any(near.negatives for _, near in pairs):
            raise InputError(
                "All training rows belong together, by one label, one text or one positive: there is nothing to tell "
                "apart.",
                fix="Give rows of several labels, pairs of different texts, or negatives.",
            )
        scores = {example.completion for example in examples if isinstance(example.wanted, Numbers)}
        if len(scores) == 1 and all(isinstance(example.wanted, Numbers) for example in examples):
            raise InputError(
                f"All {len(examples)} training pairs have the score {next(iter(scores))}: there is no order to learn.",
                fix="Give pairs of several scores, or pairs that belong together without any.",
            )

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        report, pairs, rows = RenderReport(rows=len(examples)), paired(examples), list[Row]()
        report.dropped = len(examples) - len(pairs)
        report.dropped_reasons = {"no other text has its label": report.dropped} if report.dropped else {}
        for example in pairs:
            texts = said_texts(example)
            tokens = tokens_of(tokenizer, texts, max_length)
            report.truncated += any(own.truncated for own in tokens)
            report.tokens += sum(len(own.ids) for own in tokens)
            rows.append(Row([token for own in tokens for token in own.ids], _labels(example, texts, tokens)))
        if not rows:
            raise InputError("No row is left to train on: no label stands in two rows.", fix="tunelift data")
        report.tokens_in_loss = len(rows)
        own = pooling_of(tokenizer).max_length
        report.notes = [f"texts are cut to {own} tokens, as the model's files say"] * bool(own and own < max_length)
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        found = list[Shown]()
        for example in paired(examples)[:most]:
            first, *others = said_texts(example)
            score = f" ({example.completion})" if isinstance(example.wanted, Numbers) else ""
            (tokens,) = tokens_of(tokenizer, [first], max_length)
            negatives = "".join(f" | not: {text}" for text in others[1:])
            found.append((tokens, f" -> {others[0]}{score}{negatives}"))
        return [], found

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        texts, labels = list[Row](), list[Sequence[float]]()
        for row in rows:
            lengths, said = row.labels
            ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
            texts += [Row(row.ids[start:end], None) for start, end in pairwise(ends)]
            labels += said
        kind = torch.float64 if len(labels[0]) == 2 else torch.long
        tokens = sum(len(row.ids) for row in rows)
        told = torch.tensor(labels, dtype=kind, device=device)
        return Batch(pad_inputs(texts, pad_id, device), told, len(rows), tokens, len(rows))

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        vectors = Vectors(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            vectors.states.check_training(some.inputs)
        return InBatchLoss(lambda batch: vectors(batch.inputs), _of_rows), {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        return self.plain_losses([row], model)

    def plain_losses(self, rows: Sequence[Learned], model: Any) -> float:
        """Embed each text by itself, without padding, and take the loss in fp64 over all rows."""
        pooling, found = pooling_of(model), list[Tensor]()
        for own in (text for row in rows for text in row.rows):
            inputs = accepted(model, own.batch.inputs)
            states = model(**inputs, **without_cache(model)).last_hidden_state.double()
            found.append(pooling(states, inputs["attention_mask"]))
        return float(_of_rows(torch.cat(found), torch.cat([row.batch.labels for row in rows])).sum())

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare each text with what its tokens say, and what it is to the row with the row's own."""
        texts, told = said_texts(row.example), row.batch.labels.tolist()
        said = [letters(tokenizer, own.ids) for own in row.rows]
        pooling = pooling_of(tokenizer)
        wanted = [
            letters(tokenizer, tokenizer(pooling.text(text), add_special_tokens=False, verbose=False)["input_ids"])
            for text in texts
        ]
        same = [own == text or (row.truncated and text.startswith(own)) for own, text in zip(said, wanted, strict=True)]
        roles = [ANCHOR, POSITIVE] + [NEGATIVE] * (len(texts) - 2)
        if isinstance(row.example.wanted, Numbers):
            score = float(row.example.completion)
            return all(same) and told == [[role, score] for role in roles]
        return all(same) and [own[0] for own in told] == roles and [own[1] for own in told] == [*map(number_of, texts)]


def _labels(example: Example, texts: Sequence[str], tokens: Sequence[Tokens]) -> tuple[list[int], list[list[float]]]:
    """Return how many tokens each text has, and what each is, as the losses want it."""
    roles = [ANCHOR, POSITIVE] + [NEGATIVE] * (len(texts) - 2)
    lengths = [len(own.ids) for own in tokens]
    if isinstance(example.wanted, Numbers):
        return lengths, [[role, example.wanted.values[0]] for role in roles]
    kind = example.wanted.kind if isinstance(example.wanted, Near) else None
    group = number_of(f"text {example.prompt}" if kind is None else f"label {kind}")
    return lengths, [[role, number_of(text), group] for role, text in zip(roles, texts, strict=True)]


def _of_rows(vectors: Tensor, labels: Tensor) -> Tensor:
    return ordered(vectors, labels) if labels.is_floating_point() else ranked(vectors, labels)


TASKS.add(SentenceEmbedding.name, SentenceEmbedding())
