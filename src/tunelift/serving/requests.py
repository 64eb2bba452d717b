"""What is asked of the engine, and what it says as it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from tunelift.core.errors import InputError
from tunelift.serving.grammars import Grammar

Finish = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended: by itself, at a limit, because nobody wants it any more, or because its pass failed."""

MOST_LOGPROBS = 20
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 takes the likeliest; with `seed` the draws are the same each time.

    In this order: the penalties and `bias` change the logits; `temperature` divides them; then only the `top_k`
    likeliest stay (0: all), of them the likeliest that together have the probability `top_p`, and of them those of at
    least `min_p` times the probability of the likeliest. `repetition` divides positive and multiplies negative logits
    of tokens in prompt and answer (Keskar and others, 2019); `frequency` is taken off for each time that a token stands
    in the answer, and `presence` once. `logprobs` is how many likeliest tokens are told beside each chosen one, None
    for not even its own; log-probabilities (nats) are the model's own, before any of this.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("temperature", self.temperature, 0, 100),
            ("top_k", self.top_k, 0, 2**31),
            ("top_p", self.top_p, 0, 1),
            ("min_p", self.min_p, 0, 1),
            ("repetition_penalty", self.repetition, 0.01, 100),
            ("frequency_penalty", self.frequency, -100, 100),
            ("presence_penalty", self.presence, -100, 100),
            ("logprobs", self.logprobs or 0, 0, MOST_LOGPROBS),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:  # NaN is in no range
                raise InputError(f"{name} is {value!r:.40}.", fix=f"It is from {least} to {most}.")
        if not self.top_p:
            raise InputError("top_p is 0, which leaves no token.", fix="Temperature 0 takes the likeliest one.")
        if any(not -100 <= value <= 100 for value in self.bias.values()):
            raise InputError("A bias of a token's logit is from -100 to 100.")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Stop:
    """Where an answer ends: before a stop id or string, and after so many new tokens."""

    ids: frozenset[int] = frozenset()
    strings: Sequence[str] = ()
    max_new_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to be continued, by the base or by an adapter's name.

    With `scored_from` the log-probabilities of the prompt's own tokens from that place on (1 or more) are told as well,
    each after those before it, and `max_new_tokens` may be 0. With a `grammar` the answer is one of it, unless its
    length cuts it. With `special` the answer's text holds its special tokens too, but for the one that ends it.
    """

    ids: Sequence[int]
    sampling: Sampling = GREEDY
    adapter: str | None = None
    stop: Stop = Stop()
    scored_from: int | None = None
    grammar: Grammar | None = None
    special: bool = False
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its log-probability (nats), and the likeliest tokens in its place with theirs, where asked for."""

    id: int
    logprob: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step adds to a request's answer: its tokens, and what may be told of its text so far.

    `prompt` are the prompt's tokens that were asked for. `finish` stands in the last one, with the `reason` of an
    error. `known` is how many tokens of the prompt were not computed, since another request had begun with them.
    """

    number: int
    tokens: Sequence[Token] = ()
    text: str = ""
    prompt: Sequence[Token] = ()
    finish: Finish | None = None
    reason: str = ""
    known: int = 0
