"""Extractive question answering: which part of a passage answers a question, or none (SQuAD, SQuAD 2).

A head says of each token how likely the answer begins, and ends, there. A long passage is asked about window by window;
in a window without the answer, the token that opens the row (CLS) stands for none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.config.schema import DataSection
from tunelift.core import text_files
from tunelift.core.errors import InputError, listed
from tunelift.core.records import Example, Pair, Span, Spans
from tunelift.data.columns import Reading
from tunelift.data.encoding import spelt_as_text
from tunelift.data.formats import Table, TableRow
from tunelift.data.layouts import Layout, Said
from tunelift.data.refused_columns import refuse_preferences, refuse_tagged_tokens
from tunelift.data.render import TEXTS_AT_ONCE, RenderReport, Tokens
from tunelift.data.template import as_text
from tunelift.data.windows import Window, windows
from tunelift.fast.classifying import ClassLogits, rows_in, said_of
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache
from tunelift.metrics.spans import best_none_threshold
from tunelift.metrics.thresholds import Threshold
from tunelift.tasks.base import MADE_UP, TASKS, Batch, Learned, Loss, Row, Shown, Task, pad_inputs

NO_ROOM = "the question leaves no room for its passage"
NOT_WHOLE = "no window holds its answer whole"
NO_TOKEN_FOR_NONE = "it has no answer, and no token of the model stands for none"
"""Why a question is not learned, or not scored."""

SHAPE = 'Answers are {"text": ["Denver Broncos"], "answer_start": [177]}, with empty lists where there is none.'


@dataclass(frozen=True, slots=True)
class Asked:
    """The columns of passages, questions and answers, each answer with its place in the passage: SQuAD's rows."""

    passage: str
    question: str
    answers: str

    @property
    def columns(self) -> Sequence[str]:
        return (self.passage, self.question, self.answers, "is_impossible", "plausible_answers")

    def __call__(self, row: TableRow, where: str) -> Said:
        """Return what the row says; raise InputError for an answer that does not stand in its passage."""
        passage, question = (as_text(row.get(name), f'{where}, column "{name}"') for name in self.columns[:2])
        if not passage.strip():
            return "empty passage"
        if not question.strip():
            return "empty question"
        spans = Spans(tuple(_spans(row.get(self.answers), passage, f'{where}, column "{self.answers}"')))
        if spans.spans and row.get("is_impossible") is True:
            raise InputError(
                f"{where}: the question is marked as impossible, and has an answer: {spans.texts[0]!r}.",
                fix="Correct is_impossible, or leave its answers empty.",
            )
        text = f"{passage}\n\nQuestion: {question.strip()}"
        return Example("", text, spans.texts[0] if spans.spans else "", Pair(question, passage), spans)

    def notes(self, table: Table, group: str | None) -> list[str]:
        """Say how many questions have no answer, and how many have several."""
        found = [_spans(row.get(self.answers), None, table.where(i)) for i, row in enumerate(table.rows)]
        none, several = sum(not some for some in found), sum(len({s.text for s in some}) > 1 for some in found)
        notes = [f"{none} of {len(found)} questions have no answer in their passage"] * bool(none)
        return notes + [
            f"{several} questions have several answers: the first is learned, and the best match counts"
        ] * bool(several)


def _spans(value: Any, passage: str | None, where: str) -> list[Span]:
    """Return the answers that a cell holds, each once, held against the passage where it is given."""
    if isinstance(value, str) and value.strip():  # as a csv file keeps it
        value = text_files.json_value(value, where, fix=SHAPE)
    if isinstance(value, list):
        value = {key: [_of(one, key, where) for one in value] for key in ("text", "answer_start")}
    texts: Any = value.get("text") if isinstance(value, Mapping) else None
    starts: Any = value.get("answer_start") if isinstance(value, Mapping) else None
    if not _all(texts, str) or not _all(starts, int) or len(texts) != len(starts):
        raise InputError(f"{where}: texts of answers, and where each begins in the passage, are expected.", fix=SHAPE)
    spans = [Span(text, start) for text, start in zip(texts, starts, strict=True)]
    for span in spans if passage is not None else ():
        _check(span, str(passage), where)
    return list(dict.fromkeys(spans))


def _of(answer: Any, key: str, where: str) -> Any:
    if not isinstance(answer, Mapping) or key not in answer:
        raise InputError(f'{where}: an answer without "{key}".', fix=SHAPE)
    return answer[key]


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )


def _check(span: Span, passage: str, where: str) -> None:
    if not span.text.strip():
        raise InputError(f"{where}: an answer is empty.", fix="Where there is no answer, both lists are empty.")
    stands = passage[max(span.start, 0) : max(span.end, 0)]
    if span.start < 0 or stands != span.text:
        found = passage.find(span.text)
        hint = f"It begins at {found}." if found >= 0 else "It stands nowhere in the passage."
        raise InputError(
            f"{where}: the answer {span.text!r:.80} is said to begin at {span.start} of {len(passage)} characters, "
            f"where {stands!r:.80} stands.",
            fix=f"{hint} Places count characters from 0, neither bytes nor UTF-16.",
        )


def _choose(table: Table, section: DataSection) -> Layout:
    """Take the columns that data.text (passage), data.prompt (question) and data.label (answers) name, or the usual."""
    if section.completion is not None:
        raise InputError(
            "data.completion makes a text, and here an answer is a part of its passage.",
            fix="Name the column of answers with data.label.",
        )
    named = {
        "text": section.text or "context",
        "prompt": section.prompt or "question",
        "label": section.label or "answers",
    }
    if missing := [f"data.{key}" for key, name in named.items() if name not in table.columns]:
        raise InputError(
            f"{table.name} has the columns {listed(table.columns)}: {listed(missing)} must name that of "
            "passages (text), questions (prompt) or answers (label).",
            fix="Such as --text context --prompt question --label answers.",
        )
    return Asked(named["text"], named["prompt"], named["label"])


def passage_column(section: DataSection) -> str:
    """Return the column of passages: questions about one of them belong together."""
    return section.text or "context"


def asked_windows(examples: Sequence[Example], tokenizer: Any, max_length: int) -> Iterator[list[Window]]:
    """Yield the windows of each question with its passage."""
    pairs = [example.given for example in examples if isinstance(example.given, Pair)]
    for begin in range(0, len(pairs), TEXTS_AT_ONCE):
        yield from windows(tokenizer, pairs[begin : begin + TEXTS_AT_ONCE], max_length)


def positions(some: Sequence[Window], wanted: Spans) -> list[tuple[int, int]] | str:
    """Return the first and the last token of the answer in each window, or why there are none.

    Of several answers it is the first that a window holds whole. Where a window does not hold that, both are the token
    that stands for none; IGNORED where there is none such.
    """
    if not some:
        return NO_ROOM
    if not wanted.spans:
        found = [None if window.none is None else (window.none, window.none) for window in some]
        return NO_TOKEN_FOR_NONE if None in found else [place for place in found if place]
    each = ([window.tokens_of(span) for window in some] for span in wanted.spans)
    placed = next((found for found in each if any(found)), None)
    if placed is None:
        return NOT_WHOLE
    nones = [IGNORED if window.none is None else window.none for window in some]
    return [place or (none, none) for place, none in zip(placed, nones, strict=True)]


def has_none(example: Example) -> bool:
    """Tell whether a question has no answer in its passage."""
    return isinstance(example.wanted, Spans) and not example.wanted.spans


class QuestionAnswering(Task):
    name = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    mapping = "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"
    peft_type = "QUESTION_ANS"
    pipeline_tag = "question-answering"
    reading = Reading(_choose, refuse=(refuse_preferences, refuse_tagged_tokens), group=passage_column)
    measures = ("spans",)
    outputs = 2
    natural = False
    threshold = Threshold(
        metrics=("squad_f1",),
        best=best_none_threshold,
        arises=lambda examples: any(has_none(example) for example in examples),
        within=(-sys.float_info.max, sys.float_info.max),
        said="no answer is given where none scores more than {} above the best span",
        card="No answer is given where start and end logits of the first token sum to more than {} above those of the "
        "best span (of several windows, the least such sum).",
    )
    card_note = (
        "Ask `model.get_base_model()`, in which the adapter is: peft's own forward for question answering (0.21) drops "
        "the token types by which a model such as BERT tells the question from the passage."
    )

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["squad_f1", "squad_exact_match", "loss"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def made_up(self) -> list[Example]:
        said = [(Pair(f"what is {i}?", f"row {i} is {word} of {i}"), Span(word, 9)) for i, word in enumerate(MADE_UP)]
        return [Example(str(i), str(pair), span.text, pair, Spans((span,))) for i, (pair, span) in enumerate(said)]

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        rows, report, reasons = list[Row](), RenderReport(rows=len(examples)), Counter[str]()
        in_several = further = 0
        for example, some in zip(examples, asked_windows(examples, tokenizer, max_length), strict=True):
            assert isinstance(example.wanted, Spans)
            placed = positions(some, example.wanted)
            if isinstance(placed, str):
                reasons[placed] += 1
                continue
            own = [Row(w.ids, at, w.segments) for w, at in zip(some, placed, strict=True) if at != (IGNORED, IGNORED)]
            rows += own
            in_several, further = in_several + (len(some) > 1), further + len(own) * (len(some) > 1)
        if not rows:
            raise InputError(f"No row is left to train on: {listed(reasons)}.", fix="Set train.max_length higher.")
        report.dropped, report.dropped_reasons = sum(reasons.values()), dict(reasons)
        report.tokens = sum(len(row.ids) for row in rows)
        report.tokens_in_loss = 2 * len(rows)
        if in_several:
            report.notes = [f"{in_several} passages are longer than {max_length} tokens, and make {further} windows"]
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        found = list[Shown]()
        for example, some in zip(examples[:most], asked_windows(examples[:most], tokenizer, max_length), strict=True):
            assert isinstance(example.wanted, Spans)
            placed = positions(some, example.wanted)
            if isinstance(placed, str):
                found.append((Tokens([], [], 0), f" -> {placed}"))
                continue
            for window, (first, last) in zip(some, placed, strict=True):
                marked = [first <= at <= last for at in range(len(window.ids))]
                found.append((Tokens(window.ids, marked, len(window.ids)), f" -> {example.completion or 'no answer'}"))
        return [], found

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        labels = torch.tensor([list(row.labels) for row in rows], device=device)
        tokens, targets = sum(len(row.ids) for row in rows), int((labels != IGNORED).sum())
        return Batch(pad_inputs(rows, pad_id, device), labels, len(rows), tokens, targets)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        logits = ClassLogits(model, [] if some is None else rows_in(some.inputs))
        if some is not None:
            logits.check_training(some.inputs)

        def loss(batch: Batch) -> Tensor:
            found = without_padding(logits(batch.inputs).float(), batch.inputs["attention_mask"])
            return F.cross_entropy(found, batch.labels, ignore_index=IGNORED, reduction="sum")

        return loss, {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        total = 0.0
        for own in row.rows:
            said = said_of(model, own.batch.inputs, **without_cache(model))[0].double().log_softmax(dim=0)
            places = enumerate(own.batch.labels[0].tolist())
            total -= sum(float(said[at, side]) for side, at in places if at != IGNORED)
        return total

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the tokens between the two positions with the answer, and where it is cut off with none."""
        assert isinstance(row.example.wanted, Spans)
        answers, found = [text for text in row.example.wanted.texts if text], list[bool]()
        for part in row.rows:
            ids, (first, last) = part.ids, part.batch.labels[0].tolist()
            is_none = first == last and ids[first] in (tokenizer.cls_token_id, tokenizer.bos_token_id)
            is_span = 0 <= first <= last < len(ids)
            if not is_none and not (is_span and any(_says(tokenizer, ids[first : last + 1], own) for own in answers)):
                return False
            found.append(not is_none)
        return any(found) == bool(answers) or row.truncated


def without_padding(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits (B, T, 2) that are least at the padding, which is no place for an answer to begin or end."""
    return logits.masked_fill(mask[..., None] == 0, torch.finfo(logits.dtype).min)


def _says(tokenizer: Any, ids: Sequence[int], answer: str) -> bool:
    """Tell whether tokens hold an answer and no token more on either side, blanks aside."""

    def letters(some: Sequence[int]) -> str:
        return "".join(tokenizer.decode(list(some), skip_special_tokens=False).split())

    how = spelt_as_text(tokenizer, [answer])
    wanted = letters(tokenizer(answer, add_special_tokens=False, verbose=False, **how)["input_ids"])
    return letters(ids) == wanted or (
        wanted in letters(ids) and wanted not in letters(ids[1:]) and wanted not in letters(ids[:-1])
    )


TASKS.add(QuestionAnswering.name, QuestionAnswering())
