"""Requests in one batch that they join and leave between steps, on a stock causal model.

A step is one call of the model over one row of tokens, without padding: the next token of each answer that is being
written, and a chunk of the prompts that wait to be read. Attention goes by pages (attention.py), adapters by token
(lora.py). Memory is what the arena takes; who finds no room in it waits, in the order of coming.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tunelift.core.errors import InputError
from tunelift.fast.attention import UnpackableError
from tunelift.fast.frozen import head_of, pack_head, screen_head
from tunelift.fast.screened_head import ScreenedHead, only_the_likeliest
from tunelift.fast.undo import Undo, in_evaluation, without_cache
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.anatomy import base_of, context_length, vocabulary
from tunelift.model_facts.parameters import device_of
from tunelift.serving.attention import Arena, Part, Step, paged
from tunelift.serving.grammars import FormError
from tunelift.serving.layers import InOneCall, layers_tried
from tunelift.serving.lora import ByToken, InTurns, unmixed
from tunelift.serving.pages import PAGE, Held, Pages
from tunelift.serving.requests import Delta, Finish, Request, Token
from tunelift.serving.sampling import Sampler, likeliest, told
from tunelift.serving.text import Speech


class FullError(Exception):
    """The queue holds as many requests as it may."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests at once and in the queue; tokens whose keys and values are kept; tokens of prompts that a step reads."""

    rows: int = 32
    queue: int = 256
    tokens: int = 16384
    chunk: int = 256


@dataclass(slots=True)
class Running:
    """A request that is in the batch: `computed` of its tokens have keys and values."""

    request: Request
    held: Held
    sampler: Sampler
    speech: Speech
    ids: list[int]
    computed: int
    told: list[Token] = field(default_factory=list)

    @property
    def prompt(self) -> int:
        return len(self.request.ids)

    @property
    def reading(self) -> bool:
        """Whether some of its prompt is left to be read."""
        return len(self.ids) == self.prompt

    @property
    def chooses(self) -> bool:
        """Whether nothing is asked of its logits but which token is the likeliest."""
        return self.sampler.plain and self.request.sampling.logprobs is None and self.request.scored_from is None


class Engine:
    """One model with its adapters, and all who wait for it. Not to be called by two threads at once.

    `alone` says why each request is computed by itself, with a pass over its whole row for each token, as evaluation
    does where a model takes no batches; None for pages (see trial.py, which finds out).
    """

    def __init__(self, model: Any, tokenizer: Any, limits: Limits = Limits(), alone: str | None = None) -> None:
        self.model, self.tokenizer, self.limits, self.alone = model, tokenizer, limits, alone
        self.tokenizers: dict[str, Any] = {}
        self.config = base_of(model).config.get_text_config()
        self.context = min(context_length(model, tokenizer), limits.tokens // PAGE * PAGE)
        self.pages = Pages(limits.tokens // PAGE)
        self.arena = Arena(self.pages.count * PAGE)
        self.waiting: deque[Request] = deque()
        self.running: list[Running] = []
        self.unmixed = alone or unmixed(model)
        """Why adapters are asked in turns, one call for each; None where one call has them all."""
        self.steps = 0
        self._undo = Undo()
        self._stack = ExitStack()
        self._adapters: ByToken | InTurns = InTurns(model)
        self._layers: InOneCall | None = None

    def __enter__(self) -> Engine:
        """Take the model: its layers run fused until the engine is left."""
        self._stack.enter_context(in_evaluation(self.model))
        self.fast_paths = self._stack.enter_context(sped_up(self.model, "forward"))
        screened = "" if self.alone else screen_head(self.model, self.tokenizer)
        self.fast_paths["frozen_products"] += screened + pack_head(self.model)
        self._adapters = InTurns(self.model) if self.unmixed else ByToken(self.model, self._undo)
        if isinstance(self._adapters, ByToken):
            self._layers, self.fast_paths["decoder_layers"] = layers_tried(
                self.model, self.tokenizer, self._undo, self._adapters, self.context
            )
        return self

    def __exit__(self, *_: Any) -> None:
        self._undo.all()
        self._stack.close()

    def has(self, adapter: str | None) -> bool:
        """Tell whether there is an adapter of this name; None is the base."""
        return adapter is None or adapter in (getattr(self.model, "peft_config", None) or {})

    def put_on(self, name: str, tokenizer: Any, put: Callable[[Any], Any]) -> None:
        """Take one more adapter between two steps: `put` returns the model with it under this name."""
        self.model = put(self.model).eval()
        self.tokenizers[name] = tokenizer
        self._adapters.changed(self.model)

    def take_off(self, name: str) -> None:
        """Give up an adapter of which no request is left, with all that is known under it."""
        self.model.delete_adapter(name)
        if not self.model.peft_config:  # peft asks the one that is on how to call the base
            self.model = self.model.unload()
        self.tokenizers.pop(name, None)
        self.pages.forget_all(name)
        self._adapters.changed(self.model)

    def check(self, request: Request) -> None:
        """Raise InputError for what can never be answered."""
        ids, most = request.ids, request.stop.max_new_tokens
        size = vocabulary(self.model) or 2**63
        if not ids:
            raise InputError("There is nothing to answer: the prompt is empty.", fix="Give it some text.")
        if any(not 0 <= token < size for token in ids):
            raise InputError(f"A token of the prompt is none of the model's {size}.")
        if not self.has(request.adapter):
            raise InputError(f"There is no adapter {request.adapter!r:.80}.")
        if most < (0 if request.scored_from else 1) or (request.scored_from or 1) < 1:
            raise InputError("A request has to ask for at least one token.")
        if len(ids) + most > self.context:
            raise InputError(
                f"The prompt has {len(ids)} tokens and {most} more are asked for; together at most {self.context} fit.",
                fix="Shorten the prompt, or ask for fewer new tokens.",
            )
        if any(not 0 <= token < size for token in request.sampling.bias):
            raise InputError(f"A token with a bias is none of the model's {size}.")

    def submit(self, request: Request) -> None:
        """Queue a request; raise InputError for what can never be answered, and FullError where too many wait."""
        self.check(request)
        if len(self.waiting) >= self.limits.queue:
            raise FullError(f"{len(self.waiting)} requests are waiting, as many as may.")
        self.waiting.append(request)

    def cancel(self, number: int) -> bool:
        """Forget a request; tell whether it was there."""
        waiting = [request for request in self.waiting if request.number == number]
        for request in waiting:
            self.waiting.remove(request)
        running = [one for one in self.running if one.request.number == number]
        for one in running:
            self._leave(one)
        return bool(waiting or running)

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)

    @torch.no_grad()
    def step(self) -> list[Delta]:
        """Compute one step, and return what it adds to each answer.

        A failure of the model's call ends the requests that were in it, with the reason; others go on.
        """
        self._admit()
        deltas = list[Delta]()
        for group in self._calls():
            try:
                deltas += self._called(group)
            except (RuntimeError, ValueError, MemoryError, UnpackableError) as error:
                for one in group:
                    self._leave(one[0], keep=False)
                    reason = str(error) or type(error).__name__
                    deltas.append(Delta(one[0].request.number, finish="error", reason=reason))
        self.steps += 1
        return deltas

    def _admit(self) -> None:
        for request in list(self.waiting):
            if len(self.running) >= self.limits.rows:
                return
            known = self._may_be_known(request)
            if self._is_being_read(request.adapter, known):
                continue
            ids = list(request.ids)
            held = self.pages.take(request.adapter, known, len(ids) + request.stop.max_new_tokens)
            if held is None:
                return
            self.waiting.remove(request)
            if held.copied:
                self.arena.copy(*held.copied)
            tokenizer = self.tokenizers.get(request.adapter or "", self.tokenizer)
            speech = Speech(tokenizer, request.stop.strings, special=request.special)
            sampler = Sampler(request.sampling, ids, request.grammar.matcher() if request.grammar else None)
            self.running.append(Running(request, held, sampler, speech, ids, computed=held.tokens))

    def _may_be_known(self, request: Request) -> Sequence[int]:
        """Return the ids of a prompt whose keys and values may be another's, the last of them not."""
        return request.ids[:1] if self.alone else request.ids[: request.scored_from]

    def _is_being_read(self, adapter: str | None, known: Sequence[int]) -> bool:
        """Tell whether another request is reading a page with which this one begins too: it is known in a moment."""
        readers = (one for one in self.running if one.reading and one.request.adapter == adapter)
        ends = ((one.request.ids, (one.computed // PAGE + 1) * PAGE) for one in readers)
        return any(end < len(known) and list(ids[:end]) == list(known[:end]) for ids, end in ends)

    def _calls(self) -> Iterator[list[tuple[Running, int]]]:
        """Yield who is in each call of this step, with how many tokens: one, or a chunk of what is to be read."""
        left, chosen = self.limits.chunk, list[tuple[Running, int]]()
        for one in self.running:
            todo = len(one.ids) - one.computed
            if one.reading and not self.alone:
                # What is scored has logits of every token, which over a large vocabulary take memory.
                todo = min(todo, left, 64 if one.request.scored_from else left)
                left -= todo
            if todo > 0:
                chosen.append((one, todo))
        if self.alone:
            yield from ([pair] for pair in chosen)
            return
        if not self.unmixed:  # tokens of one adapter lie side by side, so that it takes them at once
            chosen.sort(key=lambda pair: pair[0].request.adapter or "")
            yield from [chosen] if chosen else []
            return
        for adapter in dict.fromkeys(one.request.adapter for one, _ in chosen):
            yield [(one, todo) for one, todo in chosen if one.request.adapter == adapter]

    def _called(self, group: Sequence[tuple[Running, int]]) -> list[Delta]:
        parts, ids, positions, wanted, adapters = [], list[int](), list[int](), list[int](), list[str | None]()
        counts = list[int]()
        for one, todo in group:
            start, first = len(ids), one.computed
            parts.append(Part(start, start + todo, first, one.held.pages))
            ids += one.ids[first : first + todo]
            positions += range(first, first + todo)
            adapters += [one.request.adapter] * todo
            places = self._wanted(one, todo)
            wanted += [start + place for place in places]
            counts.append(len(places))
        if self.alone:
            logits = self._whole(group[0][0], wanted)
        else:
            with only_the_likeliest(self._screened() if all(one.chooses for one, _ in group) else None):
                logits = self._logits(parts, ids, positions, wanted, adapters)
        deltas, at = list[Delta](), 0
        for (one, todo), count in zip(group, counts, strict=True):
            deltas += self._taken(one, todo, logits[at : at + count])
            at += count
        return deltas

    def _screened(self) -> ScreenedHead | None:
        head = head_of(self.model)
        return None if head is None else head.screened

    def _wanted(self, one: Running, todo: int) -> list[int]:
        """Return of which of the tokens that are computed now the logits are wanted."""
        first, end = one.computed, one.computed + todo
        score = one.request.scored_from
        scored = [] if score is None else [p - first for p in range(max(first, score - 1), min(end, one.prompt - 1))]
        last = [todo - 1] if end == len(one.ids) and one.request.stop.max_new_tokens else []
        return [*scored, *last]

    def _logits(
        self,
        parts: Sequence[Part],
        ids: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        adapters: Sequence[str | None],
    ) -> Tensor:
        """Return the logits (W, V) behind the wanted tokens of a row (N,)."""
        device = device_of(self.model)
        kept = wanted or [0]  # no model is asked for the logits of none
        row, places, keep = (torch.tensor(x, dtype=torch.long, device=device) for x in (ids, positions, kept))
        step = Step(self.arena, parts, device)
        in_one_call = self._layers.of(step) if self._layers else nullcontext()
        with paged(self.config, step), self._adapters.of(adapters, kept), in_one_call:
            found = self.model(
                input_ids=row[None],
                position_ids=places[None],
                attention_mask=torch.ones_like(row)[None],
                use_cache=False,
                logits_to_keep=keep,
            )
        logits: Tensor = found.logits[0]
        return logits[: len(wanted)].cpu()

    def _whole(self, one: Running, wanted: Sequence[int]) -> Tensor:
        """Return the logits (W, V) behind wanted tokens, counted from the first not computed, by a whole pass."""
        row = torch.tensor([one.ids], dtype=torch.long, device=device_of(self.model))
        with self._adapters.of([one.request.adapter]):
            found = self.model(input_ids=row, attention_mask=torch.ones_like(row), **without_cache(self.model))
        own = found.logits[0, -len(one.ids) :]  # behind those of virtual tokens, if there are any
        logits: Tensor = own[[one.computed + place for place in wanted]].cpu()
        return logits

    def _taken(self, one: Running, todo: int, logits: Tensor) -> list[Delta]:
        """Take what was computed of one request; return what there is to tell."""
        request, sampling = one.request, one.request.sampling
        first, was_reading = one.computed, one.reading
        one.computed += todo
        more = one.computed == len(one.ids)
        scored = len(logits) - bool(more and request.stop.max_new_tokens)
        for n in range(scored):
            place = max(first, (request.scored_from or 1) - 1) + n + 1
            one.told.append(told(logits[n], one.ids[place], sampling.logprobs or 0))
        if was_reading and not self.alone:
            self.pages.share(one.held, request.adapter, request.ids[: one.computed])
        if not more:
            return []
        prompt, known = (one.told, one.held.tokens) if was_reading else ((), 0)
        if not request.stop.max_new_tokens:
            self._leave(one)
            return [Delta(request.number, prompt=prompt, finish="length", known=known)]
        try:
            chosen = likeliest(logits[-1]) if one.sampler.plain else one.sampler.choose(logits[-1].clone())
        except FormError as error:
            self._leave(one)
            return [Delta(request.number, prompt=prompt, finish="error", reason=str(error), known=known)]
        token = told(logits[-1], chosen, sampling.logprobs)
        one.ids.append(chosen)
        text, finish = self._said(one, chosen)
        tokens = () if finish == "stop" and chosen in request.stop.ids else (token,)
        if finish:
            self._leave(one)
        return [Delta(request.number, tokens, text, prompt, finish, known=known)]

    def _said(self, one: Running, chosen: int) -> tuple[str, Finish | None]:
        """Return what may be told of the text with one more token, and whether the answer ends with it."""
        stop = one.request.stop
        if chosen in stop.ids:
            return one.speech.end(), "stop"
        text = one.speech.add(chosen)
        if one.speech.stopped:
            return text, "stop"
        if one.sampler.ended:
            return text + one.speech.end(), "stop"
        if len(one.ids) - one.prompt >= stop.max_new_tokens:
            return text + one.speech.end(), "length"
        return text, None

    def _leave(self, one: Running, *, keep: bool = True) -> None:
        self.running = [other for other in self.running if other is not one]
        computed = one.ids[: one.computed] if keep and not self.alone else []
        self.pages.give_back(one.held, one.request.adapter, computed)


def answered(engine: Engine, requests: Sequence[Request]) -> dict[int, list[Delta]]:
    """Answer requests, however many, and return what was said to each, by its number."""
    found: dict[int, list[Delta]] = {request.number: [] for request in requests}
    left = deque(requests)
    while left or not engine.idle:
        while left and len(engine.waiting) < engine.limits.queue:
            engine.submit(left.popleft())
        for delta in engine.step():
            found[delta.number].append(delta)
    return found
