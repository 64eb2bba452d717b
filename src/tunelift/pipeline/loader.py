"""Adapters that come and go while a server answers: looked at, proved and named as those that it began with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from tunelift.adapters.loading import load_adapter, with_adapter
from tunelift.core import progress
from tunelift.core.errors import InputError, TuneliftError, listed
from tunelift.fast.undo import in_evaluation, without_cache
from tunelift.model_facts.parameters import device_of
from tunelift.pipeline.proving import SLACK, prove_one
from tunelift.pipeline.served import Ready, Source, examined, measured_of, sources_of, with_same_weights
from tunelift.run_files.layout import TUNED, RunPaths
from tunelift.serving.lora import unmixed
from tunelift.serving.requests import Request, Sampling, Stop
from tunelift.serving.service import Named, Service, UnknownModelError
from tunelift.serving.trial import TEXTS
from tunelift.serving.worker import ask
from tunelift.untrusted.files import read_object

MOST_ADAPTERS = 256
"""Adapters that are served at once, those of the start among them."""


class Loader:
    """Puts adapters of named folders on and takes them off again, one at a time, while the worker answers.

    `roots` are folders; those in them may be loaded, and no others.
    """

    def __init__(self, ready: Ready, service: Service, roots: Sequence[Path]) -> None:
        self.ready, self.service, self.roots = ready, service, [root.resolve() for root in roots]
        self.session = ready.session
        self.session.base_tokenizer = deepcopy(self.session.base_tokenizer)  # the worker decodes with the other one
        self._numbers = count()
        self._lock = threading.Lock()

    def load(self, name: str, path: str) -> None:
        """Serve one more adapter, a run's or by itself, under a name.

        It is looked at as at the start. A stock model with it on says what the served one must, and items of its run
        must score as they were measured. Raises InputError where it cannot be served, TuneliftError where what is
        served is not it; then nothing has changed.
        """
        with self._lock:
            source = self._source(name, path)
            tokenizer = examined(self.session, source)
            self._check_precision(source)
            row, told = self._stock(source, tokenizer)
            key = f"loaded{next(self._numbers)}"
            sha256 = self.session.identity.weights_sha256
            put = partial(with_adapter, name=key, folder=source.folder, weights_sha256=sha256)
            self.ready.worker.between(lambda engine: engine.put_on(key, tokenizer, put))
            try:
                self._check_acts(key, row, told)
                named = Named(name, key, tokenizer, self.session.model, measured=measured_of(source, TUNED))
                for proved in prove_one(self.ready, source, named):
                    progress.note(f"proof: {proved}")
            except BaseException:
                self.ready.worker.take_off(key)
                raise
            self.service.models = {**self.service.models, name: named}
            progress.note(f"loaded {name} from {source.folder}")

    def unload(self, name: str) -> None:
        """Serve an adapter no longer: requests that are there end as they would have, and no more are taken."""
        with self._lock:
            named = self.service.named(name)
            if named.adapter is None:
                raise InputError(f"{name} is the base, which stays.")
            self.service.models = {other: model for other, model in self.service.models.items() if other != name}
            self.ready.worker.take_off(named.adapter)
            progress.note(f"unloaded {name}")

    def _source(self, name: str, path: str) -> Source:
        if not 0 < len(name) <= 128 or not name.isprintable() or name != name.strip():
            raise InputError("lora_name is no name of 1 to 128 letters, without blanks around it.")
        if name in self.service.models:
            raise InputError(f"There is a model {name} already.", fix="Unload it first, or take another name.")
        if len(self.service.models) > MOST_ADAPTERS:
            raise InputError(f"{MOST_ADAPTERS} adapters are served, as many as may.", fix="Unload one first.")
        for root in self.roots:
            try:
                folder = (root / path).resolve()
                found = folder != root and folder.is_relative_to(root) and folder.is_dir()
            except (OSError, RuntimeError, ValueError):  # no path of this system: too long, with a zero byte, a loop
                continue
            if found:
                return sources_of([(name, str(folder))])[0]
        raise UnknownModelError(
            f"There is no folder {path!r:.200} in those that adapters are loaded from.", "lora_path",
            f"They are {listed(map(str, self.roots))}.",
        )  # fmt: skip

    def _check_precision(self, source: Source) -> None:
        """Refuse a run that was measured in another precision: its scores are not those of what is served."""
        told = None if source.run is None else read_object(RunPaths(source.run).manifest).get("dtype")
        own = self.session.facts()["dtype"]
        if told not in (None, own):
            raise InputError(f"The run {source.run} was measured in {told}, and {own} is served.")

    @torch.no_grad()
    def _stock(self, source: Source, tokenizer: Any) -> tuple[list[int], list[float]]:
        """Return a row of ids, and the log-probability of each but the first by peft's own model of this adapter."""
        model = load_adapter(with_same_weights(self.session.model), source.folder, None).eval()
        reason = unmixed(model)
        if reason and not self.ready.worker.engine.unmixed:
            raise InputError(
                f"The adapter {source.folder} cannot be mixed with others in one call: {reason}.",
                fix="Give it at the start: then all adapters are asked in turns.",
            )
        text = TEXTS[0]
        row = Named("stock", None, tokenizer, model).asked(text)[0][: self.ready.worker.engine.context]
        ids = torch.tensor([row], dtype=torch.long, device=device_of(model))
        with in_evaluation(model):
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **without_cache(model)).logits[0]
        likely = logits.float().log_softmax(dim=-1)
        return row, [float(likely[place, token]) for place, token in enumerate(row[1:])]

    def _check_acts(self, key: str, row: list[int], told: list[float]) -> None:
        """Raise TuneliftError unless the adapter gives a row, served, the scores that peft's own model gives it."""
        request = Request(row, Sampling(logprobs=0), key, Stop(max_new_tokens=0), scored_from=1)
        deltas = ask(self.ready.worker, request)
        failed = next((delta.reason for delta in deltas if delta.finish == "error"), None)
        found = [token.logprob or 0.0 for delta in deltas for token in delta.prompt]
        off = max((abs(one - other) for one, other in zip(found, told, strict=False)), default=0.0)
        if failed is not None or len(found) != len(told) or not off <= SLACK * self.ready.nats:
            why = failed or f"a token's score is {off:.2g} nats from that of peft's own model"
            raise TuneliftError(f"What would be served is not this adapter: {why}.")
