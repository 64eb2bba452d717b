"""Answers in batches: the likeliest, or drawn as the model gives them."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunelift.core.errors import InputError
from tunelift.core.progress import Advance
from tunelift.evaluation.batching import by_length
from tunelift.tasks.base import padded


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn: by the model's probabilities, its logits divided by `temperature`.

    `names` has a name for each prompt: its draws follow from that and the seed, whatever is computed beside it.
    """

    temperature: float
    seed: int
    names: Sequence[str]

    def draws(self) -> list[random.Random]:
        """Return a source of random numbers for each prompt."""
        return [random.Random(f"{self.seed} {name}") for name in self.names]

    def chosen(self, logits: Tensor, draws: Sequence[random.Random]) -> Tensor:
        """Return a token (rows,) drawn by each row's logits (rows, V)."""
        below = (logits.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        wanted = torch.tensor([draw.random() for draw in draws], dtype=below.dtype, device=below.device)
        places = torch.searchsorted(below, (wanted * below[:, -1])[:, None], right=True)
        return places[:, 0].clamp_max(logits.shape[1] - 1)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Where an answer ends: before a stop id or string, after so many new tokens, where the context is full.

    It is the likeliest one, token by token, or drawn.
    """

    stop_ids: Collection[int]
    max_new_tokens: int
    context: int = 2**31
    stop_strings: Sequence[str] = ()
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """The ids of an answer (T,), without the one that ended it; `cut` where it was to go on: no end was reached."""

    ids: list[int]
    cut: bool


def texts_of(tokenizer: Any, answers: Sequence[Continuation], stop_strings: Sequence[str]) -> list[str]:
    """Return answers as text without special tokens, each up to the first of these strings."""
    texts = (tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in answers)
    return [before_stop(text, stop_strings) for text in texts]


def before_stop(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text before the first of these strings in it."""
    cuts = [text.index(stop) for stop in stop_strings if stop in text]
    return text[: min(cuts)] if cuts else text


def continue_greedily(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    rows_at_once: int,
    advance: Advance,
) -> list[Continuation]:
    """Return the most likely continuation of each prompt, token by token, or one that is drawn.

    One that reached a stop string holds it. Rows that have ended are not computed any further. Raises InputError for an
    empty prompt.
    """
    if empty := [i for i, prompt in enumerate(prompts) if not prompt]:
        raise InputError(
            f"There is nothing to answer: prompt {empty[0] + 1} is empty.",
            fix="Give each prompt some text; for rows of plain text take a metric such as bits_per_byte.",
        )
    answers, sampling = [Continuation([], False)] * len(prompts), decoding.sampling
    draws = sampling.draws() if sampling else []
    for group in by_length([len(prompt) for prompt in prompts], rows_at_once, tokens_at_once=2**16):
        rows = Rows(model, [prompts[i] for i in group])
        end = Ending(tokenizer, decoding)
        while rows.running:
            chosen = rows.step()
            if sampling:
                chosen = rows.take(sampling.chosen(rows.logits, [draws[group[row]] for row in rows.running]))
            answered = rows.new_tokens(chosen)
            lengths = [len(prompts[group[row]]) for row in rows.running]
            finished = end.reached(answered, lengths)
            advance(sum(finished))
            rows.leave(finished)
        for i, tokens in zip(group, rows.answers, strict=True):
            answers[i] = end.continuation(tokens)
    return answers


def end_ids(model: Any) -> set[int]:
    """Return the ids that end an answer by the model's own generation config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return set() if configured is None else {configured} if isinstance(configured, int) else set(configured)


class Rows:
    """Rows that are being continued, padded on the left, with their cache."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        self.model = model
        self.answers: list[list[int]] = [[] for _ in prompts]
        self.running = list(range(len(prompts)))
        self.logits = torch.empty(0, dtype=torch.float32)  # (rows, V), of the last step
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.mask = padded([[1] * len(prompt) for prompt in prompts], 0, model.device, left=True)
        self.next_ids = padded(prompts, 0, model.device, left=True)
        self.positions = (self.mask.cumsum(dim=1) - 1).clamp_min(0)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Return the next token of every running row, (rows,)."""
        output = self.model(
            input_ids=self.next_ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1]
        chosen: Tensor = self.logits.argmax(dim=-1)
        self.next_ids, self.positions = chosen[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.next_ids)], dim=1)
        return chosen

    def take(self, tokens: Tensor) -> Tensor:
        """Go on with other tokens (rows,) than the likeliest; return them."""
        self.next_ids = tokens[:, None]
        return tokens

    def new_tokens(self, chosen: Tensor) -> list[list[int]]:
        """Note the chosen tokens; return the answers of the running rows so far."""
        for row, token in zip(self.running, chosen.tolist(), strict=True):
            self.answers[row].append(token)
        return [self.answers[row] for row in self.running]

    def leave(self, finished: Sequence[bool]) -> None:
        """Take finished rows out of the batch and the cache."""
        if not any(finished):
            return
        keep = [i for i, done in enumerate(finished) if not done]
        self.running = [self.running[i] for i in keep]
        if keep:
            index = torch.tensor(keep, device=self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask, self.next_ids, self.positions = self.mask[index], self.next_ids[index], self.positions[index]


class Ending:
    """When an answer ends, and whether it came to its end."""

    def __init__(self, tokenizer: Any, decoding: Decoding) -> None:
        self.tokenizer, self.decoding = tokenizer, decoding
        self.stop_ids, self.stop_strings = set(decoding.stop_ids), list(decoding.stop_strings)
        # A stop string can begin in the middle of a token and is never longer than its bytes in tokens.
        self.tail = max((len(s.encode()) for s in self.stop_strings), default=0) + 1

    def reached(self, answers: Sequence[list[int]], prompt_lengths: Sequence[int]) -> list[bool]:
        """Return which answers have ended; they follow prompts of these lengths (tokens)."""
        limits = [min(self.decoding.max_new_tokens, self.decoding.context - length) for length in prompt_lengths]
        ended = [a[-1] in self.stop_ids or len(a) >= limit for a, limit in zip(answers, limits, strict=True)]
        return [e or said for e, said in zip(ended, self._say_stop(answers), strict=True)]

    def continuation(self, tokens: list[int]) -> Continuation:
        if tokens and tokens[-1] in self.stop_ids:
            return Continuation(tokens[:-1], cut=False)
        return Continuation(tokens, cut=not self._say_stop([tokens])[0])

    def _say_stop(self, answers: Sequence[list[int]]) -> list[bool]:
        """Return which answers end with a stop string, or with tokens that hold one."""
        if not self.stop_strings:
            return [False] * len(answers)
        tails = self.tokenizer.batch_decode([answer[-self.tail :] for answer in answers], skip_special_tokens=True)
        return [any(stop in tail for stop in self.stop_strings) for tail in tails]
