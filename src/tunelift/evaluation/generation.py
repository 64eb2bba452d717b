"""Answers in batches: the likeliest, or drawn as the model gives them."""

from __future__ import annotations

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
class Decoding:
    """Where an answer ends: before a stop id or string, after so many new tokens, where the context is full.

    With a `seed` each token is drawn by the model's own probabilities, else it is the likeliest.
    """

    stop_ids: Collection[int]
    max_new_tokens: int
    context: int = 2**31
    stop_strings: Sequence[str] = ()
    seed: int | None = None


class Choice:
    """Chooses the next token of rows; each row, by its number among all prompts, draws numbers of its own."""

    def __init__(self, seed: int | None) -> None:
        self.seed, self.generators = seed, dict[int, torch.Generator]()

    def of(self, logits: Tensor, numbers: Sequence[int]) -> Tensor:
        """Return a token for each row of logits (rows, V): the likeliest, or one drawn (the Gumbel-max trick)."""
        if self.seed is None:
            return logits.argmax(dim=-1)
        noise = torch.stack([self._noise(number, logits.shape[1]) for number in numbers])
        return (logits.float() + noise.to(logits.device)).argmax(dim=-1)

    def _noise(self, number: int, width: int) -> Tensor:
        if number not in self.generators:
            self.generators[number] = torch.Generator().manual_seed(1_000_003 * (self.seed or 0) + number)
        uniform = torch.rand(width, generator=self.generators[number], dtype=torch.float64)
        return -(-uniform.clamp_min(1e-300).log()).log().float()


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
    """Return the continuation of each prompt, token by token.

    One that reached a stop string holds it. Rows that have ended are not computed any further. Raises InputError for an
    empty prompt.
    """
    if empty := [i for i, prompt in enumerate(prompts) if not prompt]:
        raise InputError(
            f"There is nothing to answer: prompt {empty[0] + 1} is empty.",
            fix="Give each prompt some text; for rows of plain text take a metric such as bits_per_byte.",
        )
    answers = [Continuation([], False)] * len(prompts)
    for group in by_length([len(prompt) for prompt in prompts], rows_at_once, tokens_at_once=2**16):
        rows = Rows(model, [prompts[i] for i in group], Choice(decoding.seed), group)
        end = Ending(tokenizer, decoding)
        while rows.running:
            answered = rows.new_tokens(rows.step())
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

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        choice: Choice | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        from transformers import DynamicCache

        self.model, self.choice = model, choice or Choice(None)
        self.numbers = range(len(prompts)) if numbers is None else numbers
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
        chosen = self.choice.of(self.logits, [self.numbers[row] for row in self.running])
        self.next_ids, self.positions = chosen[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, torch.ones_like(self.next_ids)], dim=1)
        return chosen

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
