"""The models of a server by name, and what is asked of them in OpenAI's form: prompts, requests, answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from tunelift.core.errors import did_you_mean, listed
from tunelift.core.records import Conversation, Example
from tunelift.data.render import Renderer
from tunelift.data.shared_words import common_start
from tunelift.evaluation.generation import end_ids
from tunelift.model_facts.anatomy import vocabulary
from tunelift.serving.bodies import Body, BodyError
from tunelift.serving.decisions import Asked, Decisions, Measured, examples_of
from tunelift.serving.grammars import Grammars
from tunelift.serving.requests import Request, Sampling, Stop
from tunelift.serving.tools import MARK, OTHER, Reading, Way
from tunelift.serving.worker import Worker


class UnknownModelError(BodyError):
    """There is no model of this name here."""


class Named:
    """A model under a name: the base, or the base with an adapter, each asked as it was measured."""

    def __init__(
        self, name: str, adapter: str | None, tokenizer: Any, model: Any, max_length: int = 2**31,
        *, measured: Measured | None = None,
    ) -> None:  # fmt: skip
        self.name, self.adapter, self.tokenizer, self.measured = name, adapter, tokenizer, measured
        # Encoding changes a tokenizer for a moment, and the worker's thread decodes with it meanwhile.
        self.renderer = Renderer(deepcopy(tokenizer), max_length)
        self.ends = frozenset(end_ids(model))
        self.grammars = Grammars(self.renderer.tokenizer, vocabulary(model))
        self.chats = bool(getattr(tokenizer, "chat_template", None))
        self._lock = threading.Lock()

    def asked(self, what: str | Sequence[int] | Conversation) -> tuple[list[int], Stop]:
        """Return the ids of a prompt, and where its answer ends by itself; raise InputError as rendering does."""
        if isinstance(what, Conversation) and not self.chats:
            raise BodyError(
                f"The model {self.name} has no chat template.", "messages", "Ask it by /v1/completions, with a prompt."
            )
        given = what if isinstance(what, Conversation) else None
        example = Example("1", what if isinstance(what, str) else "", "", given)
        with self._lock:
            ends = frozenset(self.renderer.stop_ids(example)) | self.ends
            strings = self.renderer.stop_strings(example)
            ids = self.renderer.asked([example])[0].ids if isinstance(what, str | Conversation) else list(what)
        return ids, Stop(ends, strings)

    @cached_property
    def special(self) -> list[str]:
        """The special tokens, which are no text."""
        return [str(token) for token in self.renderer.tokenizer.added_tokens_decoder.values() if token.special]

    @cached_property
    def way(self) -> Way:
        """How the model's template writes calls of tools; raises InputError where it has none, or none that is read."""
        tools = tuple({"type": "function", "function": {"name": name, "parameters": {}}} for name in (MARK, OTHER))

        def written(calls: Sequence[Mapping[str, Any]], content: str = "") -> str:
            answer = {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}
            given = Conversation(({"role": "user", "content": "x"}, answer), tools)
            example = Example("1", "", "", given)
            found = self.renderer.written(example)
            text = found.text.text[found.answers[-1].asked : found.answers[-1].end]
            ends = [self.renderer.tokenizer.decode([token]) for token in (*self.ends, *self.renderer.stop_ids(example))]
            for end in ends * 2:
                text = text.rstrip().removesuffix(end) if text.rstrip().endswith(end) else text
            return text

        with self._lock:
            plain = written([], "x")
            return Way.of(lambda calls: written(calls)[len(common_start([written(calls), plain])) :])

    def reading(self, body: Body) -> Reading | None:
        """Return what reads the calls of an answer, where it may have some."""
        if body.demand is None:
            return None
        own = self.way.tokens(self.special)
        return Reading(self.way, body.demand, [token for token in self.special if token not in own])

    def continued(self, example: Example, answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return the ids of a prompt and of each answer behind it, as evaluation has them."""
        with self._lock:
            return self.renderer.continued([example], [answers])[0]

    def scoring(self, prompt: Sequence[int], answer: Sequence[int]) -> Request:
        """Return the request that scores an answer and writes nothing."""
        start, stop = max(1, len(prompt)), Stop(max_new_tokens=0)
        return Request([*prompt, *answer], Sampling(logprobs=0), self.adapter, stop, scored_from=start)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Limits of one server: bytes of a body, new tokens of an answer, seconds of a request and of its body."""

    body: int = 2**20
    new_tokens: int = 1024
    seconds: float = 300.0
    body_seconds: float = 30.0


class Adapters(Protocol):
    """What serves adapters that are loaded while others are asked; both raise InputError and TuneliftError."""

    def load(self, name: str, path: str) -> None: ...

    def unload(self, name: str) -> None: ...


class Service:
    """The named models behind one worker. The first of them answers where no model is named."""

    def __init__(self, worker: Worker, models: Sequence[Named], allowed: Allowed = Allowed()) -> None:
        self.worker, self.allowed = worker, allowed
        self.adapters: Adapters | None = None
        self.models: Mapping[str, Named] = {model.name: model for model in models}

    def named(self, name: str | None) -> Named:
        """Return the model of a name; raise UnknownModelError where there is none."""
        found = self.models.get(next(iter(self.models)) if name is None else name)
        if found is None:
            hint = did_you_mean(str(name), self.models)
            raise UnknownModelError(
                f"There is no model {name!r:.80} here.{hint}", "model", f"Models: {listed(self.models)}."
            )
        return found

    def decisions(self, found: Decisions) -> tuple[Named, dict[str, Asked]]:
        """Return what questions ask of the engine, by their names: a request for each option, which scores its text."""
        named, all_asked = self.named(found.model), dict[str, Asked]()
        for name, question in found.questions.items():
            example, options, measured = examples_of(found.state, question, named.measured, chats=named.chats)
            prompt, answers = named.continued(example, options)
            asked = Asked(question, [named.scoring(prompt, answer) for answer in answers])
            if measured and named.measured is not None:
                asked.temperature = named.measured.temperature or 1.0
                asked.measured = len(options) == len(named.measured.labels)
            for request in asked.requests:
                self.worker.engine.check(request)
            all_asked[name] = asked
        return named, all_asked

    def requests(self, body: Body) -> list[Request]:
        """Return what a body asks of the engine: `n` requests for each prompt, with seeds that follow one another."""
        named, found = self.named(body.model), list[Request]()
        for what in body.asked:
            ids, stop = named.asked(what)
            room = self.worker.engine.context - len(ids)
            most = self.allowed.new_tokens if body.max_tokens is None else body.max_tokens
            if most > self.allowed.new_tokens:
                raise BodyError(
                    f"{most} new tokens are asked for, and at most {self.allowed.new_tokens} are given.", "max_tokens"
                )
            most = most if body.max_tokens is not None else max(1, min(most, room))
            stop = replace(stop, strings=[*stop.strings, *body.stop], max_new_tokens=most)
            way = named.way if body.demand else None  # InputError where calls cannot be read
            form = body.form
            if way and body.demand and body.demand.forced:
                added = named.renderer.tokenizer.added_tokens_decoder
                form = way.form(body.demand, {str(token): number for number, token in added.items()})
            grammar = named.grammars.of(form, stop.ids) if form else None
            scored = 1 if body.echo and body.sampling.logprobs is not None else None
            for n in range(body.n):
                seed = None if body.sampling.seed is None else body.sampling.seed + n
                sampling, special = replace(body.sampling, seed=seed), body.demand is not None
                found.append(Request(ids, sampling, named.adapter, stop, scored, grammar, special))
                self.worker.engine.check(found[-1])
        return found
