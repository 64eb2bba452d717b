"""Vectors of texts in OpenAI's form: a sentence model with its adapters, asked one body after the other."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunelift.core.errors import did_you_mean, listed
from tunelift.evaluation.batching import by_length
from tunelift.fast.undo import in_evaluation
from tunelift.model_facts.anatomy import base_of, pad_id, vocabulary
from tunelift.serving.app import App, Refused
from tunelift.serving.bodies import IGNORED, BodyError, Fields, is_text, read_json
from tunelift.serving.engine import FullError
from tunelift.serving.lora import InTurns
from tunelift.serving.service import Allowed, UnknownModelError
from tunelift.serving.telling import Telling
from tunelift.serving.worker import StoppedError
from tunelift.tasks.base import padded_inputs
from tunelift.tasks.sentence_embedding import Vectors, tokens_of

MOST_INPUTS, ROWS_AT_ONCE = 2048, 64
FIELDS = IGNORED | {"model", "input", "encoding_format", "dimensions"}


@dataclass(frozen=True, slots=True)
class Sentences:
    """A sentence model under a name: the base, or the base with an adapter; texts are cut to `longest` tokens."""

    name: str
    adapter: str | None
    tokenizer: Any
    longest: int


class Embedder:
    """The one thread that owns a sentence model."""

    def __init__(self, model: Any, tokenizer: Any, queue: int = 256) -> None:
        self.model, self.queue, self.telling = model, queue, Telling()
        self.broken: str | None = None
        self.outstanding = 0
        self.size = vocabulary(model) or 2**63
        self._pad = pad_id(model, tokenizer)
        self._vectors, self._adapters = Vectors(model), InTurns(model)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tunelift vectors")
        self._stopping = threading.Event()

    def texts(self, named: Sentences, texts: Sequence[str]) -> list[list[int]]:
        """Return texts as the model reads them."""
        return [list(tokens.ids) for tokens in tokens_of(named.tokenizer, texts, named.longest)]

    async def asked(self, named: Sentences, given: Sequence[str] | Sequence[list[int]]) -> tuple[Tensor, int]:
        """Return the vectors of texts, or of ids, (texts, D), and how many tokens were read.

        Raises FullError where too many wait, and StoppedError.
        """
        if self._stopping.is_set():
            raise StoppedError("The server is stopping.")
        if self.outstanding >= self.queue:
            self.telling.refused += 1
            raise FullError(f"{self.outstanding} requests are being answered or waiting, as many as may.")
        self.outstanding += 1
        since, gone = time.monotonic(), threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, named, given, gone)
        finally:
            gone.set()  # whoever asked may have gone before the end
            self.outstanding -= 1
            self.telling.ended("stop", time.monotonic() - since)

    def vectors(self, named: Sentences, rows: Sequence[list[int]], gone: threading.Event | None = None) -> Tensor:
        """Return the vectors of rows of ids, (rows, D) in float32 on the CPU; to be called by the one thread."""
        found = [torch.empty(0)] * len(rows)
        with torch.no_grad(), in_evaluation(self.model), self._adapters.of([named.adapter]):
            for group in by_length([len(row) for row in rows], ROWS_AT_ONCE):
                if self._stopping.is_set() or (gone and gone.is_set()):
                    raise StoppedError("The server is stopping.")
                inputs = padded_inputs([rows[i] for i in group], self._pad, self.model.device)
                for i, vector in zip(group, self._vectors(inputs).cpu(), strict=True):
                    found[i] = vector
                self.telling.steps += 1
        return torch.stack(found)

    def stop(self) -> None:
        """Take no more requests, and end the thread after the batch that it computes."""
        self._stopping.set()
        self._thread.shutdown()

    def _read(self, named: Sentences, given: Sequence[Any], gone: threading.Event) -> tuple[Tensor, int]:
        rows = self.texts(named, given) if isinstance(given[0], str) else given
        tokens = sum(map(len, rows))
        self.telling.prompt += tokens
        return self.vectors(named, rows, gone), tokens


class EmbeddingService:
    """The named sentence models behind one thread. The first of them answers where no model is named."""

    def __init__(self, worker: Embedder, models: Sequence[Sentences], allowed: Allowed) -> None:
        self.worker, self.allowed, self.adapters = worker, allowed, None
        self.models: Mapping[str, Sentences] = {model.name: model for model in models}

    def read(self, raw: bytes) -> tuple[Sentences, list[Any], bool]:
        """Return what a body asks: by which model, of which texts or ids, and whether the answer is to be in base64."""
        found = read_json(raw)
        fields = Fields(found, FIELDS)
        name, kind, width = found.get("model"), found.get("encoding_format"), fields.whole("dimensions", 1, 2**31)
        named = self.models.get(next(iter(self.models)) if name is None else str(name))
        if named is None:
            hint = did_you_mean(str(name), self.models)
            raise UnknownModelError(
                f"There is no model {name!r:.80} here.{hint}", "model", f"Models: {listed(self.models)}."
            )
        own = getattr(base_of(self.worker.model).config, "hidden_size", None)
        if width is not None and width != own:
            raise BodyError(f"dimensions is {width}, and this model's vectors have {own}.", "dimensions")
        if kind not in (None, "float", "base64"):
            raise BodyError('encoding_format is neither "float" nor "base64".', "encoding_format")
        return named, self._inputs(found.get("input"), named.longest), kind == "base64"

    def _inputs(self, found: Any, longest: int) -> list[Any]:
        several = isinstance(found, list) and bool(found) and not all(type(token) is int for token in found)
        given = found if several else [found]
        texts = all(is_text(one) and one for one in given)
        ids = all(
            isinstance(one, list) and one and all(type(token) is int and 0 <= token < self.worker.size for token in one)
            for one in given
        )
        if not (texts or ids) or len(given) > MOST_INPUTS:
            raise BodyError(
                f"input is no text, no list of token ids, and no list of 1 to {MOST_INPUTS} of one of these.",
                "input",
            )
        if ids and max(map(len, given)) > longest:
            raise BodyError(f"A list of token ids has more than the {longest} that the model reads.", "input")
        return given


class EmbeddingApp(App):
    """The application of a server of vectors."""

    def __init__(self, service: EmbeddingService, token: str | None = None) -> None:
        super().__init__(service, token)
        kept = ("/health", "/metrics", "/v1/models")
        self.routes = {route: answer for route, answer in self.routes.items() if route[1] in kept}
        self.routes[("POST", "/v1/embeddings")] = self._embeddings

    async def _embeddings(self, answer: Any) -> None:
        named, given, packed = await self._understood(answer, self.service.read)
        try:
            vectors, tokens = await self.service.worker.asked(named, given)
        except FullError as error:
            raise Refused(429, str(error), "rate_limit_error", headers={"Retry-After": "1"}) from None
        except StoppedError as error:
            raise Refused(503, str(error), "server_error", headers={"Retry-After": "5"}) from None
        written = [_packed(vector) if packed else vector.tolist() for vector in vectors]
        data = [{"object": "embedding", "index": n, "embedding": one} for n, one in enumerate(written)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        await answer.json(200, {"object": "list", "data": data, "model": named.name, "usage": usage})

    def gauges(self) -> Sequence[tuple[str, str, float]]:
        return [("outstanding_requests", "Requests that are answered or waiting.", self.service.worker.outstanding)]


def _packed(vector: Tensor) -> str:
    """Return a vector as base64 of its numbers in float32, little end first, as OpenAI's client asks for it."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
