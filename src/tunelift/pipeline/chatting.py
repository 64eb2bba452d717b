"""`tunelift chat`: one question to base and tuned, each with its own history; what is judged becomes rows of data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError
from tunelift.core.records import Conversation
from tunelift.pipeline.served import ready, sources_of
from tunelift.serving.engine import Limits
from tunelift.serving.requests import Request, Sampling, Stop
from tunelift.serving.service import Named
from tunelift.serving.worker import Worker, ask_all

KEPT_TOKENS = 16384


class Chat:
    """A talk with several models at once, by their names; `max_new_tokens` is the length of an answer at most.

    A model without a chat template continues each text as it is, and knows nothing of those before.
    """

    def __init__(self, worker: Worker, models: Sequence[Named], sampling: Sampling, max_new_tokens: int) -> None:
        self.worker, self.sampling, self.max_new_tokens = worker, sampling, max_new_tokens
        self.models = {model.name: model for model in models}
        self.system = ""
        self._said: dict[str, list[dict[str, str]]] = {}
        self.begin("")

    def begin(self, system: str) -> None:
        """Forget what was said, and begin with a system text, or with none where it is empty."""
        self.system = system
        begun = [{"role": "system", "content": system}] if system else []
        self._said = {name: list(begun) for name in self.models}

    def say(self, text: str) -> dict[str, str]:
        """Return what each model answers; raise InputError where one cannot be asked, and then nothing is kept."""
        histories = {name: [*said, {"role": "user", "content": text}] for name, said in self._said.items()}
        requests = [self._request(self.models[name], history) for name, history in histories.items()]
        answers = ask_all(self.worker, requests)
        failed = [delta.reason for deltas in answers for delta in deltas if delta.finish == "error"]
        if failed:
            raise InputError(f"The question was not answered: {failed[0]}")
        found = {}
        for name, deltas in zip(histories, answers, strict=True):
            found[name] = "".join(delta.text for delta in deltas)
            self._said[name] = [*histories[name], {"role": "assistant", "content": found[name]}]
        return found

    def row(self, name: str, good: bool) -> dict[str, Any]:
        """Return the last answer of a model as a row of data: prompt, completion, and whether it is wanted.

        That is TRL's form for KTO; those that are wanted can be learned as they are.
        """
        if name not in self.models:
            raise InputError(f"There is no model {name}.", fix=f"Models: {', '.join(self.models)}.")
        said = self._said[name]
        if not said or said[-1]["role"] != "assistant":
            raise InputError(f"{name} has answered nothing yet.")
        if self.models[name].chats:
            return {"prompt": said[:-1], "completion": said[-1:], "label": good, "model": name}
        return {"prompt": said[-2]["content"], "completion": said[-1]["content"], "label": good, "model": name}

    def _request(self, model: Named, history: Sequence[Mapping[str, str]]) -> Request:
        ids, stop = model.asked(Conversation(tuple(history)) if model.chats else history[-1]["content"])
        room = self.worker.engine.context - len(ids)
        if room < 1:
            raise InputError("What was said fills the context.", fix="Begin anew: /new")
        stop = Stop(stop.ids, stop.strings, min(self.max_new_tokens, room))
        return Request(ids, self.sampling, model.adapter, stop)


@contextmanager
def chat_stage(
    section: ModelSection, folders: Sequence[tuple[str | None, str]], sampling: Sampling, max_new_tokens: int
) -> Iterator[Chat]:
    """Give a talk with a base and the adapters of folders for a while."""
    with ready(section, sources_of(folders), Limits(tokens=KEPT_TOKENS)) as found:
        yield Chat(found.worker, found.models, sampling, max_new_tokens)


def save_row(file: Path, row: Mapping[str, Any]) -> None:
    """Write one more line to a file of rows; what it holds already stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
