"""Sequence to sequence: an encoder reads the prompt, a decoder writes the answer, token by token (T5, BART)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.columns import ANSWERS, Reading
from tunelift.data.examples import looks_like_labels
from tunelift.data.formats import Table
from tunelift.data.layouts import Layout, Templates, Texts
from tunelift.data.render import Renderer, RenderReport, Tokens
from tunelift.data.template import Template
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import without_cache
from tunelift.model_facts.anatomy import base_of
from tunelift.tasks.base import TASKS, Batch, Learned, Loss, Row, Shown, Task, letters, pad_inputs, padded

COLUMNS = (
    ("document", "summary"), ("article", "highlights"), ("dialogue", "summary"), ("source", "target"),
    ("input", "target"), ("text", "summary"),
)  # fmt: skip
"""What people call the text that is read and the one that is to be written."""


def _choose(table: Table, section: DataSection) -> Layout | None:
    """Take templates, columns of usual names, or what a causal model would, each answer without blanks around it."""
    named = any(getattr(section, key) is not None for key in ("prompt", "completion", "text", "label"))
    found = next((pair for pair in COLUMNS if set(pair) <= set(table.columns)), None)
    layout: Layout | None
    if found is not None and not named:
        texts = Texts(Template(f"{{{found[0]}}}", "data.prompt"))
        layout = Templates(texts, Template(f"{{{found[1]}}}", "data.completion"))
    elif section.text is not None and section.label is not None and "{" not in section.text + section.label:
        layout = Templates(
            Texts(Template(f"{{{section.text}}}", "data.text")), Template(f"{{{section.label}}}", "data.label")
        )
    else:
        layout = ANSWERS.choose(table, section)
    if isinstance(layout, Templates) and layout.texts is not None:
        return replace(layout, bare=True)
    if layout is None or (layout and not isinstance(layout, Templates) and "output" in layout.columns):
        return layout  # a proposal is made, or these are instructions
    raise InputError(
        f"{table.name} has no prompt with one answer: an encoder reads the one, and a decoder writes the other.",
        fix='Name them: --prompt "summarize: {text}" --completion "{summary}". Conversations and plain text are for '
        "causal language models.",
    )


@dataclass(frozen=True, slots=True)
class ReadAndWritten:
    """What the encoder reads, its special tokens around, and what the decoder is to write, which EOS ends."""

    read: Tokens
    written: Tokens


def read_and_written(example: Example, renderer: Renderer, answer: str | None = None) -> ReadAndWritten:
    """Return an example's tokens, each side cut to the length of the renderer; `answer` may stand for its own.

    The answer is encoded as the tokenizer encodes targets: with what its models expect before it and behind it.
    """
    tokenizer, longest = renderer.tokenizer, renderer.max_length
    ids = list(tokenizer(text_target=example.completion if answer is None else answer, verbose=False)["input_ids"])
    ids += [] if ids[-1:] == renderer.end else renderer.end
    cut = ids[:longest]
    return ReadAndWritten(renderer.head_tokens(example), Tokens(cut, [True] * len(cut), len(ids)))


def decoder_inputs(model: Any, labels: Tensor) -> dict[str, Tensor]:
    """Return what a model is told besides what it reads: the answer (B, T), each token behind those before it.

    Models that have no function for that shift the labels themselves, and compute a loss that nobody asks for.
    """
    shift = getattr(base_of(model), "prepare_decoder_input_ids_from_labels", None)
    return {"labels": labels} if shift is None else {"decoder_input_ids": shift(labels=labels)}


def answer_logits(model: Any, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Return the logits (B, T, V) of the answers' tokens, IGNORED at their padding."""
    found: Tensor = model(**inputs, **decoder_inputs(model, labels), **without_cache(model)).logits
    return found


class SequenceToSequence(Task):
    name = "sequence-to-sequence"
    auto_class = "AutoModelForSeq2SeqLM"
    mapping = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"
    peft_type = "SEQ_2_SEQ_LM"
    takes_tokens = False
    pipeline_tag = "text2text-generation"
    reading = Reading(_choose)
    measures = ("written-likelihood", "written-answer", "written-label")
    has_head = False
    untuned = "the base model, zero-shot"

    def fits(self, config: Any) -> bool:
        """Leave out models that read sound or pictures."""
        reads_text = not hasattr(config, "audio_config") and not hasattr(config, "vision_config")
        return super().fits(config) and bool(getattr(config, "is_encoder_decoder", False)) and reads_text

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["accuracy", "loss"] if looks_like_labels(examples) else ["loss", "perplexity"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return {example.completion for example in examples}

    def size(self, row: Row) -> int:
        return len(row.ids) + len(row.labels)

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        report, renderer, rows = RenderReport(rows=len(examples)), Renderer(tokenizer, max_length), list[Row]()
        for example in examples:
            both = read_and_written(example, renderer)
            rows.append(Row(both.read.ids, both.written.ids))
            report.truncated += both.read.truncated or both.written.truncated
            report.tokens += len(both.read.ids) + len(both.written.ids)
            report.tokens_in_loss += len(both.written.ids)
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        renderer, found = Renderer(tokenizer, max_length), list[Shown]()
        for example in examples[:most]:
            both = read_and_written(example, renderer)
            found += [(both.read, " is read, and written is:"), (both.written, "")]
        return [], found

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        labels = padded([row.labels for row in rows], IGNORED, device)
        targets = int((labels != IGNORED).sum())
        return Batch(pad_inputs(rows, pad_id, device), labels, len(rows), sum(map(self.size, rows)), targets)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        def loss(batch: Batch) -> Tensor:
            where = batch.labels != IGNORED
            logits = answer_logits(model, batch.inputs, batch.labels)[where]
            return F.cross_entropy(logits.float(), batch.labels[where], reduction="sum")

        return loss, {}

    def plain_loss(self, row: Learned, model: Any) -> float:
        """Let stock shift the labels."""
        logits = model(**row.batch.inputs, labels=row.batch.labels, **without_cache(model)).logits[0]
        likely = logits.double().log_softmax(dim=-1)
        return -float(likely.gather(1, row.batch.labels[0][:, None]).sum())

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare what is read with the prompt and what is written with the answer, which EOS ends."""
        written = [int(token) for token in row.batch.labels[0]]
        sides = [(row.example.prompt, row.ids), (row.example.completion, written)]
        for text, ids in sides:
            own = letters(tokenizer, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            said = letters(tokenizer, ids)
            if not (own == said or (row.truncated and own.startswith(said))):
                return False
        ends = tokenizer.eos_token_id
        return row.truncated or ends is None or written[-1] == ends


TASKS.add(SequenceToSequence.name, SequenceToSequence())
