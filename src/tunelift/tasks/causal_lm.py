"""Causal language modelling: the next token of each completion, EOS included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunelift.core.progress import note_once
from tunelift.core.records import Example, Options
from tunelift.data.columns import ANSWERS
from tunelift.data.conversations import is_learned
from tunelift.data.examples import looks_like_labels
from tunelift.data.render import Renderer, RenderReport
from tunelift.fast.applying import other_loss
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED, targets_of
from tunelift.fast.undo import without_cache
from tunelift.fast.unpad import rows_of
from tunelift.tasks.base import TASKS, Batch, Learned, Loss, Row, Shown, Task, labelled_tokens


class CausalLM(Task):
    name = "causal-lm"
    auto_class = "AutoModelForCausalLM"
    mapping = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    peft_type = "CAUSAL_LM"
    pipeline_tag = "text-generation"
    reading = ANSWERS
    measures: tuple[str, ...] = ("likelihood", "answer", "ranked-labels", "samples")
    has_head = False
    next_token = True
    untuned = "the base model, zero-shot"

    def fits(self, config: Any) -> bool:
        """Leave out models that read both ways, though transformers has a causal head for their type (BERT's kin)."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
        return super().fits(config) and not config.is_encoder_decoder and not masked

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        if looks_like_labels(examples) or all(isinstance(example.given, Options) for example in examples):
            return ["accuracy", "loss"]
        if all(not example.prompt for example in examples):
            return ["bits_per_byte", "perplexity"]
        return ["loss", "perplexity"]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        """Return the labels that examples want: a row's own options are no labels of the others."""
        return {example.completion for example in examples if not isinstance(example.given, Options)}

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        tokens, report = Renderer(tokenizer, max_length).render_rows(examples)
        rows = [Row(t.ids, [i if kept else IGNORED for i, kept in zip(t.ids, t.in_loss, strict=True)]) for t in tokens]
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        kept, report = Renderer(tokenizer, max_length).render_rows(examples)
        return report.lines(), [(tokens, "") for tokens in kept[:most]]

    def begins_alike(self, row: Row) -> int | None:
        """What stands before the first target."""
        return next((at for at, label in enumerate(row.labels) if label != IGNORED), len(row.labels))

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        batch = labelled_tokens(rows, pad_id, device, first=1)  # the first token is predicted by nothing
        if all(row.weight == 1 for row in rows):
            return batch
        weights = torch.tensor([row.weight for row in rows], dtype=torch.float32, device=device)
        targets = float((weights * targets_of(batch.labels)[0].sum(dim=1)).sum())
        return replace(batch, weights=weights, targets=targets)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        rows = [] if some is None else rows_of(some.inputs["input_ids"], some.inputs["attention_mask"])
        view, _ = target_model(model, rows or [])
        if some is not None and (reason := other_loss(model, view)):
            note_once(f"training: {reason}; what is minimised is the cross-entropy of its logits at the targets")
        if some is not None and isinstance(view, TargetOnly):
            view.expect(some.inputs, some.labels)

        def loss(batch: Batch) -> Tensor:
            if batch.weights is None:
                return view.loss_sum(batch.inputs, batch.labels)
            counts = targets_of(batch.labels)[0].sum(dim=1)
            losses = view.losses(batch.inputs, batch.labels)
            return (losses * batch.weights.repeat_interleave(counts).to(losses.dtype)).sum()

        return loss, view.fast_paths

    def plain_loss(self, row: Learned, model: Any) -> float:
        total = 0.0
        for own in row.rows:
            logits, labels = model(**own.batch.inputs, **without_cache(model)).logits, own.batch.labels
            logits, following = logits[0, -labels.shape[1] :][:-1], labels[0, 1:]  # virtual tokens come first
            where = following != IGNORED
            likely = logits[where].double().log_softmax(dim=-1).gather(1, following[where][:, None])
            total -= float(likely.sum())
        return total

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Compare the row's own tokens that are counted with its answer; with the answers of a conversation."""
        for part in row.rows:
            ids, own = part.ids, part.batch.labels[0].tolist()
            if any(own[at] != ids[at] for at in part.counted):
                return False
        return _says_the_turns(row, tokenizer) if row.example.conversation else _says_the_completion(row, tokenizer)


TASKS.add(CausalLM.name, CausalLM())


def stops(row: Learned, tokenizer: Any) -> bool:
    """Tell whether the last token of the row is an end token and is counted."""
    last = row.rows[-1]
    counted, ids, ends = last.counted, last.ids, {tokenizer.eos_token_id}
    if row.example.conversation is not None:  # a template may end a turn with another special token
        ends |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return bool(counted) and counted[-1] == len(ids) - 1 and ids[-1] in ends


def _says_the_completion(row: Learned, tokenizer: Any) -> bool:
    """Compare as text, blanks at the ends aside: tokenizers differ in where they keep the blank before the answer.

    Without a prompt and without BOS nothing stands before the first token, which is then no label.
    """
    said = [part.ids[at] for part in row.rows for at in part.counted]
    while said and said[-1] == tokenizer.eos_token_id:
        said = said[:-1]
    answer = _decoded(tokenizer, _encoded(tokenizer, row.example.completion))
    answer = answer.removesuffix(tokenizer.eos_token or "").strip()
    readings = [said] if row.example.prompt or row.counted[:1] != [1] else [said, row.ids[:1] + said]
    texts = [_decoded(tokenizer, reading).strip() for reading in readings]
    if row.truncated:  # the cut may go through a character
        return any(answer.startswith(text.rstrip("\ufffd")) for text in texts)
    return answer in texts


def _says_the_turns(row: Learned, tokenizer: Any) -> bool:
    """Tell whether each run of counted tokens holds one learned answer in turn, and the rest what the user said.

    Templates set blanks as they like, so texts are compared without them; of calls their names are looked for.
    """
    messages, ids, counted = row.example.messages or (), row.ids, set(row.counted)
    whole = row.example.conversation is not None and row.example.conversation.turns != "last"
    answers = [message for message in messages if is_learned(message)][0 if whole else -1 :]
    runs: list[tuple[bool, list[int]]] = []
    for at, token in enumerate(ids):
        if not runs or runs[-1][0] != (at in counted):
            runs.append((at in counted, []))
        runs[-1][1].append(token)
    said = [_without_blanks(_decoded(tokenizer, run)) for learned, run in runs if learned]
    rest = "".join(_without_blanks(_decoded(tokenizer, run)) for learned, run in runs if not learned)
    if row.truncated:
        return len(said) <= len(answers)
    texts = [[_content(tokenizer, text) for text in _texts_of(answer)] for answer in answers]
    answered = [all(text in run for text in some) for run, some in zip(said, texts, strict=False)]
    asked = [_content(tokenizer, message["content"]) for message in messages if message["role"] == "user"]
    return len(said) == len(answers) and all(answered) and all(content in rest for content in asked)


def _texts_of(answer: Mapping[str, Any]) -> list[str]:
    """Return what an answer says. Tags around reasoning are the template's too: the prompt may have the first."""
    calls = [call["function"]["name"] for call in answer.get("tool_calls", ())]
    return [*re.split("</?think>", answer["content"]), answer.get("reasoning_content", ""), *calls]


def _content(tokenizer: Any, text: str) -> str:
    return _without_blanks(_decoded(tokenizer, _encoded(tokenizer, text)))


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _without_blanks(text: str) -> str:
    return "".join(text.split())
