"""Preference tuning: of two answers the better one becomes likelier, or a judged one likelier or less likely.

A row holds a prompt once and behind it both answers, each of which sees the prompt and itself alone: packed rows (see
fast/packed_rows.py) compute it so. What the reference says of a row is known before the training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunelift.config.schema import PreferencesSection
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.core.records import Example, Liked, Rejected
from tunelift.data.preferences import PREFERENCES
from tunelift.data.prompted import Prompted, both_answers, judged_answers, rejected_of
from tunelift.data.render import PROMPT_TOO_LONG, Renderer, RenderReport, Tokens
from tunelift.fast.packed_rows import common_beginning
from tunelift.fast.preferences import BETAS, KTO, PAIR_LOSSES, TAKES, WITH_REFERENCE, Answers, Strength, kto
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED, TargetModel
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.fast.unpad import rows_of
from tunelift.model_facts.parameters import is_wide
from tunelift.tasks.base import TASKS, Batch, Learned, Loss, Row, Shown, Task, padded, padded_inputs
from tunelift.tasks.causal_lm import CausalLM

FIRST_LOSS = math.log(2)
"""DPO's loss where model and reference are the same."""

NEAR = 1e-4
"""How far from it the first loss may be."""

ROUNDING = 1e-4
"""How far two right scores of a token may be apart (nats), at least: they were computed in other company."""

USUAL_GAMMA = 0.5
"""SimPO's margin where nobody sets one."""

SAME_IN_MAX_LENGTH = "both answers are the same up to max_length"


class Sides(NamedTuple):
    """What is in a row's ids: so many `shared` tokens, then each answer's own part up to its place in `ends`.

    `firsts` are the places of the answers' first targets among the shared tokens and their own. Of a judged answer
    `liked` says what it is; the second answer, if there is one, is then another row's.
    """

    shared: int
    ends: tuple[int, ...]
    firsts: tuple[int, ...]
    liked: bool | None


class Before(NamedTuple):
    """Log-likelihoods (nats) of a row's answers by the reference, and whether that is the base."""

    likely: tuple[float, ...]
    is_base: bool


@dataclass(frozen=True, slots=True)
class Compared(Batch):
    """Chosen and rejected answers in turn, or judged ones with `liked` (B,); what `reference` says of each, if known.

    `is_base` tells whether that is the base. `others` are answers to other prompts, by which KTO tells how far the
    model has moved: by `divergence` (nats).
    """

    reference: Tensor | None = None
    liked: Tensor | None = None
    others: Compared | None = None
    divergence: float = 0.0
    is_base: bool = False


class Likelihoods:
    """The loss of one model; `view` gives the likelihoods."""

    def __init__(self, view: TargetModel, task: Preference) -> None:
        self.view, self.task = view, task

    def __call__(self, batch: Batch) -> Tensor:
        assert isinstance(batch, Compared)
        return self.task.objective(batch, self.likely(batch)).sum()

    def likely(self, batch: Batch) -> Tensor:
        """Return the log-likelihood (nats) of each answer, (answers,), differentiable."""
        losses = self.view.losses(batch.inputs, batch.labels)
        rows = torch.repeat_interleave(_targets(batch.labels))
        return losses.new_zeros(len(batch.labels)).index_add(0, rows, -losses)

    @torch.no_grad()
    def over(self, batches: Sequence[Batch]) -> Callable[[Batch], Tensor]:
        """Return the loss of batches of one step: KTO takes how far the model has moved over all of them."""
        apart = [
            self.likely(batch.others).double() - _reference(batch.others)
            for batch in batches
            if isinstance(batch, Compared) and batch.others is not None
        ]
        if not apart:
            return self
        divergence = max(0.0, float(torch.cat(apart).mean()))
        return lambda batch: self(replace(batch, divergence=divergence))  # type: ignore[call-arg]


class Preference(CausalLM):
    name = "preference"
    reading = PREFERENCES
    measures = ("pairs", "answer")
    natural = False
    exact = True
    untuned = "the base model as it is"

    def __init__(self) -> None:
        self.settings = PreferencesSection()

    def with_settings(self, settings: PreferencesSection) -> Task:
        """Return the task with the loss that was asked for; raise InputError for settings that it does not look at."""
        loss, usual = settings.loss or "dpo", PreferencesSection()  # of kto, the other one, the same settings
        given = [name for name, value in settings if value != getattr(usual, name)]
        if ignored := [name for name in given if name not in TAKES[loss]]:
            takers = {name: listed(one for one in TAKES if name in TAKES[one]) for name in ignored}
            raise InputError(
                *(f"preferences.{name} is nothing to the loss {loss}: {takers[name]} look at it." for name in ignored),
                fix="Leave it out, or name a loss that does: preferences.loss",
            )
        made = copy(self)
        made.settings = settings
        return made

    @property
    def about(self) -> Any:
        return self.settings.model_dump()

    @property
    def from_base(self) -> bool:
        return self.settings.reference == "base"

    @property
    def learns(self) -> str:
        """Adapters that answer: a preference is often learned after answers were, and measured as answers are."""
        return CausalLM.name

    def metrics(self, examples: Sequence[Example]) -> list[str]:
        return ["liked_margin"] if _is_judged(examples) else ["pair_accuracy", "pair_margin", "loss"]

    def made_up(self) -> list[Example]:
        words = ("left", "right") * 4
        return [Example(str(i), f"row {i}:", f" {w}", wanted=Rejected(f" not {w}")) for i, w in enumerate(words)]

    def labels_in(self, examples: Iterable[Example]) -> set[str]:
        return set()

    def check(self, model: Any, examples: Sequence[Example], labels: Sequence[str]) -> None:
        asked, head = self.settings.loss, getattr(model, "get_output_embeddings", lambda: None)()
        if head is None:
            raise InputError(f"{type(model).__name__} says nothing of answers.", fix="Take a causal language model.")
        kinds = {example.wanted.liked for example in examples if isinstance(example.wanted, Liked)}
        if len(kinds) == 1:
            said, others = ("liked", "not liked") if True in kinds else ("not liked", "liked")
            raise InputError(
                f"All {len(examples)} training answers are {said}: there is nothing to tell apart.",
                fix=f"Give answers that are {others} too. Liked ones alone are learned as answers: --task causal-lm",
            )
        if asked not in (None, KTO) and _is_judged(examples):
            raise InputError(
                f"preferences.loss is {asked}, which learns from pairs, and these rows have one judged answer each.",
                fix="Take kto, or give rows with chosen and rejected answers.",
            )

    def begins_alike(self, row: Row) -> int | None:
        return None

    def loss_name(self, *, judged: bool) -> str:
        """Return the name of the loss for such rows."""
        return self.settings.loss or (KTO if judged else "dpo")

    def rows(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, labels: Sequence[str]
    ) -> tuple[list[Row], RenderReport]:
        report, rows, reasons = RenderReport(rows=len(examples)), list[Row](), Counter[str]()
        single = _is_judged(examples) or self.settings.loss == KTO
        renderer, found = Renderer(tokenizer, max_length), list[tuple[list[Prompted], bool | None]]()
        if single:
            found += judged_answers(examples, renderer)
        else:
            found += [(pair, None) for pair in both_answers(examples, renderer)]
        for answers, liked in found:
            cut = [_cut(answer, max_length) for answer in answers]
            counted = cut if liked is None else cut[:1]
            if not all(answer for _, answer in counted):
                reasons[PROMPT_TOO_LONG] += 1
                continue
            if liked is None and cut[0] == cut[1]:
                reasons[SAME_IN_MAX_LENGTH] += 1
                continue
            report.truncated += cut != answers
            rows.append(_row([one for one in cut if one[1]], liked))
            report.tokens_in_loss += sum(len(answer) for _, answer in counted)
        if not rows:
            raise InputError(
                f"No row is left to train on: {', '.join(reasons) or 'there are none'}.",
                fix="Set train.max_length higher, or look at the rows: tunelift data",
            )
        report.dropped, report.dropped_reasons = sum(reasons.values()), dict(reasons)
        report.tokens = sum(len(row.ids) for row in rows)
        return rows, report

    def shown(
        self, examples: Sequence[Example], tokenizer: Any, max_length: int, most: int
    ) -> tuple[list[str], list[Shown]]:
        rows, report = self.rows(examples, tokenizer, max_length, [])
        shown = list[Shown]()
        for row in rows[:most]:
            sides: Sides = row.labels
            judged = (" (liked)",) if sides.liked else (" (not liked)",)
            names = (" (chosen)", " (rejected)") if sides.liked is None else judged
            for name, (ids, first) in zip(names, parts_of(row), strict=False):
                shown.append((Tokens(ids, [at >= first for at in range(len(ids))], len(ids)), name))
        return report.lines(), shown[:most]

    def collate(self, rows: Sequence[Row], pad_id: int, device: torch.device) -> Batch:
        liked = [row.labels.liked for row in rows if row.labels.liked is not None]
        tokens = sum(len(row.ids) for row in rows)
        batch = _answers_at((0,) if liked else (0, 1), rows, pad_id, device)
        batch = replace(batch, rows=len(rows), tokens=tokens, targets=len(rows))
        if not liked:
            return batch
        others = [row for row in rows if len(row.labels.ends) > 1]
        kept = _answers_at((1,), others, pad_id, device) if others else None
        return replace(batch, liked=torch.tensor(liked, device=device), others=kept)

    def loss(self, model: Any, some: Batch | None = None) -> tuple[Loss, dict[str, str]]:
        rows = [] if some is None else rows_of(some.inputs["input_ids"], some.inputs["attention_mask"])
        view, _ = target_model(model, rows or [])
        if some is not None and isinstance(view, TargetOnly):
            view.expect(some.inputs, some.labels)
        return Likelihoods(view, self), view.fast_paths

    def objective(self, batch: Compared, likely: Tensor) -> Tensor:
        """Return the loss of each pair or judged answer, of the answers' log-likelihoods (answers,)."""
        answers = Answers(likely, _reference(batch).to(likely.dtype), _targets(batch.labels).to(likely.dtype))
        name = self.loss_name(judged=batch.liked is not None)
        gamma = USUAL_GAMMA if self.settings.gamma is None else self.settings.gamma
        how = Strength(self.settings.beta or BETAS[name], gamma)
        if batch.liked is not None:
            return kto(answers, batch.liked, likely.new_tensor(batch.divergence), how)
        return PAIR_LOSSES[name](_every_other(answers, 0), _every_other(answers, 1), how)

    def plain_loss(self, row: Learned, model: Any) -> float:
        likely = []
        for own in row.rows:
            logits, labels = model(**own.batch.inputs, **without_cache(model)).logits, own.batch.labels
            logits, following = logits[0, -labels.shape[1] :][:-1], labels[0, 1:]
            where = following != IGNORED
            likely.append(logits[where].double().log_softmax(dim=-1).gather(1, following[where][:, None]).sum())
        assert isinstance(row.batch, Compared)
        return float(self.objective(row.batch, torch.stack(likely)).sum())

    def says_the_answer(self, row: Learned, tokenizer: Any, labels: Sequence[str]) -> bool:
        """Look at each answer as at one that is learned alone."""
        said, wanted = row.rows, row.example.wanted
        examples = [row.example]
        if isinstance(wanted, Rejected):
            examples = [row.example, rejected_of(row.example)] if len(said) > 1 else examples
        alone = TASKS.get(CausalLM.name)
        pairs = zip(said, examples, strict=True)
        return all(alone.says_the_answer(replace(one, example=own), tokenizer, labels) for one, own in pairs)

    def compared(self, row: Row) -> list[Prompted]:
        if self.loss_name(judged=row.labels.liked is not None) not in WITH_REFERENCE:
            return []
        return [(ids[:first], ids[first:]) for ids, first in parts_of(row)]

    @torch.no_grad()
    def proofs_of_start(self, model: Any, loss: Loss, batch: Batch) -> list[dict[str, Any]]:
        """Prove that the reference is what the training starts from, by DPO's first loss, which is log 2 then.

        What is known of the rows must be what the reference says of them now. In half precision it may be rounded
        otherwise in other company: the first loss is of what is said now then. Raises TuneliftError where either fails.
        """
        assert isinstance(loss, Likelihoods)
        assert isinstance(batch, Compared)
        name = self.loss_name(judged=batch.liked is not None)
        if name not in WITH_REFERENCE or batch.reference is None:
            return []
        with in_evaluation(model):
            own = loss.likely(batch).double()
            with getattr(model, "disable_adapter", nullcontext)() if batch.is_base else nullcontext():
                now = loss.likely(batch).double()
        tokens, known = _targets(batch.labels), batch.reference
        apart, allowed = float(((now - known) / tokens).abs().max()), max(loss.view.nats, ROUNDING)
        if apart > allowed:
            raise TuneliftError(
                f"What is known of the reference is not what it says: {apart:.2g} nats a token apart, where rounding "
                f"explains {allowed:.2g}.",
                fix="Measure again: --no-cache",
            )
        known = known if is_wide(model) else now
        first = self._first_loss(own - known, pairs=batch.liked is None, beta=self.settings.beta or BETAS[name])
        if abs(first - FIRST_LOSS) > NEAR and self.settings.reference == "start":
            raise TuneliftError(
                f"The reference is not what the training starts from: DPO's first loss is {first:.4f}, not "
                f"{FIRST_LOSS:.4f}. This adapter changes the model before it has learned anything.",
                fix="Compare with the base all the same: preferences.reference: base. Or take lora.",
            )
        what = "the base" if batch.is_base else "the model as the training begins"
        detail = f"DPO's first loss is {first:.6f} (log 2 is {FIRST_LOSS:.6f}) on {batch.rows} rows"
        detail += f"; what is known of them is {apart:.1e} nats a token from what it says"
        return [{"name": f"the reference is {what}", "passed": True, "detail": detail}]

    def _first_loss(self, ratio: Tensor, *, pairs: bool, beta: float) -> float:
        apart = ratio[0::2] - ratio[1::2] if pairs else ratio
        return float(-torch.nn.functional.logsigmoid(beta * apart).mean())


TASKS.add(Preference.name, Preference())


def parts_of(row: Row) -> list[tuple[list[int], int]]:
    """Return the ids of each answer's row, prompt included, and the place of its first token that is learned."""
    sides: Sides = row.labels
    begins = (sides.shared, *sides.ends)
    ids = [[*row.ids[: sides.shared], *row.ids[start:end]] for start, end in zip(begins, sides.ends, strict=False)]
    return list(zip(ids, sides.firsts, strict=True))


def _row(answers: Sequence[Prompted], liked: bool | None) -> Row:
    whole = [[*prompt, *answer] for prompt, answer in answers]
    firsts = tuple(max(1, len(prompt)) for prompt, _ in answers)  # nothing stands before the first token
    shared = min(common_beginning(whole), *(first - 1 for first in firsts)) if len(whole) > 1 else 0
    ids, ends = whole[0][:shared], list[int]()
    for one in whole:
        ids = [*ids, *one[shared:]]
        ends.append(len(ids))
    return Row(ids, Sides(shared, tuple(ends), firsts, liked))


def _cut(answer: Prompted, max_length: int) -> Prompted:
    prompt, ids = answer
    return prompt[:max_length], ids[: max(0, max_length - len(prompt))]


def _answers_at(which: Sequence[int], rows: Sequence[Row], pad: int, device: torch.device) -> Compared:
    """Return these answers of each row, row by row, as a batch with what is known of them."""
    some = [parts_of(row)[at] for row in rows for at in which]
    labels = [[IGNORED] * first + ids[first:] for ids, first in some]
    inputs, length = padded_inputs([ids for ids, _ in some], pad, device), sum(len(ids) for ids, _ in some)
    known = [row.beside.likely[at] for row in rows if row.beside for at in which]
    reference = torch.tensor(known, dtype=torch.float64, device=device) if len(known) == len(some) else None
    is_base = all(row.beside and row.beside.is_base for row in rows)
    batch = padded(labels, IGNORED, device)
    return Compared(inputs, batch, len(rows), length, len(some), reference=reference, is_base=is_base)


def _targets(labels: Tensor) -> Tensor:
    """Return how many tokens of each answer are learned, (answers,)."""
    return (labels[:, 1:] != IGNORED).sum(dim=1)


def _reference(batch: Compared) -> Tensor:
    """Return what the reference says of the answers, (answers,), 0 where nobody asked it."""
    if batch.reference is None:
        return torch.zeros(len(batch.labels), dtype=torch.float64, device=batch.labels.device)
    return batch.reference


def _every_other(answers: Answers, start: int) -> Answers:
    return Answers(answers.own[start::2], answers.reference[start::2], answers.tokens[start::2])


def _is_judged(examples: Sequence[Example]) -> bool:
    return any(isinstance(example.wanted, Liked) for example in examples)
