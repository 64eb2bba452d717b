"""The one thread that owns the model: requests come to it from any thread, and what it says goes to their sinks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tunelift.core.errors import InputError
from tunelift.serving.engine import Engine, FullError
from tunelift.serving.requests import Delta, Request
from tunelift.serving.telling import Telling

Sink = Callable[[Delta], None]
"""Called in the worker's thread with each delta of a request; the last one has a `finish`."""


class StoppedError(Exception):
    """Nothing is answered any more; the message says why."""


@dataclass(slots=True)
class Asked:
    """A request that is not answered yet: since when and until when it may take (seconds of the monotonic clock)."""

    request: Request
    sink: Sink
    since: float
    until: float
    began: bool = False


@dataclass(slots=True)
class _Inbox:
    """What other threads leave for the worker."""

    coming: list[Asked] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    tasks: list[tuple[Callable[[Engine], None], Future[None]]] = field(default_factory=list)
    stopping: bool = False
    abandoned: bool = False  # whoever is left is cancelled


class Worker:
    """A thread in which an engine runs, from `start` until `stop`."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.telling = engine, Telling()
        self.broken: str | None = None
        """Why the thread has ended, where it was not asked to."""
        self._inbox = _Inbox()
        self._asked: dict[int, Asked] = {}
        self._outstanding = 0
        self._leaving: dict[str, Future[None]] = {}  # adapters of which no more requests are taken
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tunelift engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def submit(self, request: Request, sink: Sink, seconds: float = 600.0) -> None:
        """Ask for an answer within so many seconds, of which what is there by then is told.

        Raises InputError for what can never be answered, FullError where too many wait, and StoppedError.
        """
        self.engine.check(request)
        now = time.monotonic()
        with self._change:
            if self._inbox.stopping or self.broken is not None:
                raise StoppedError(self.broken or "The server is stopping.")
            if request.adapter in self._leaving or not self.engine.has(request.adapter):
                raise InputError("The adapter has been unloaded.")
            if self._outstanding >= self.engine.limits.rows + self.engine.limits.queue:
                self.telling.refused += 1
                raise FullError(f"{self._outstanding} requests are being answered or waiting, as many as may.")
            self._outstanding += 1
            self._inbox.coming.append(Asked(request, sink, now, now + seconds))
            self._change.notify()

    def cancel(self, number: int) -> None:
        """Let nobody wait for a request any more; its sink is told, unless it has had its last delta."""
        with self._change:
            self._inbox.cancelled.append(number)
            self._change.notify()

    def between(self, do: Callable[[Engine], None]) -> None:
        """Do something to the engine between two of its steps; if that fails, nothing is answered any more.

        Raises what it raises, and StoppedError.
        """
        done = Future[None]()
        with self._change:
            if self._inbox.stopping or self.broken is not None:
                raise StoppedError(self.broken or "The server is stopping.")
            self._inbox.tasks.append((do, done))
            self._change.notify()
        done.result()

    def take_off(self, adapter: str) -> None:
        """Take no more requests of an adapter, let those that are there end, and give it up; raises StoppedError."""
        with self._change:
            if self._inbox.stopping or self.broken is not None:
                raise StoppedError(self.broken or "The server is stopping.")
            done = self._leaving.setdefault(adapter, Future())
            self._change.notify()
        done.result()

    def stop(self, seconds: float = 0.0) -> None:
        """Take no more requests, let those that are there end for so many seconds, and end the thread."""
        with self._change:
            self._inbox.stopping = True
            self._change.notify()
            self._change.wait_for(lambda: not self._outstanding or self.broken is not None, seconds)
            self._inbox.abandoned = True
            self._change.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def outstanding(self) -> int:
        """Requests that are being answered or waiting."""
        return self._outstanding

    def _run(self) -> None:
        try:
            with self.engine:
                while self._take():
                    self._tell(self.engine.step())
        except BaseException as error:  # whoever waits must be told, whatever it was
            self.broken = f"The engine failed: {error or type(error).__name__}"
        with self._change:
            left = [*self._asked.values(), *self._inbox.coming]
            undone = [*(done for _, done in self._inbox.tasks), *self._leaving.values()]
            self._inbox = _Inbox(stopping=True)
        reason = self.broken or "The server is stopping."
        for done in undone:
            if not done.done():
                done.set_exception(StoppedError(reason))
        for one in left:
            self._asked[one.request.number] = one
            self._end(one, Delta(one.request.number, finish="error", reason=reason))

    def _take(self) -> bool:
        """Take what came; wait while there is nothing to do. Returns whether there is."""
        with self._change:
            while True:
                inbox, self._inbox = self._inbox, _Inbox(stopping=self._inbox.stopping)
                for one in inbox.coming:
                    self._asked[one.request.number] = one
                    self.engine.waiting.append(one.request)
                numbers = list(self._asked) if inbox.abandoned else inbox.cancelled
                gone = [self._asked[number] for number in numbers if number in self._asked]
                leaving = dict(self._leaving)
                if gone or self._asked or inbox.tasks or leaving or self._inbox.stopping:
                    break
                self._change.wait()
        for one in gone:
            self.engine.cancel(one.request.number)
            self._end(one, Delta(one.request.number, finish="cancelled", reason="It was cancelled."))
        now = time.monotonic()
        for one in [one for one in self._asked.values() if one.until < now]:
            self.engine.cancel(one.request.number)
            self.telling.late += 1
            self._end(one, Delta(one.request.number, finish="length", reason="Its time was over."))
        asked = {one.request.adapter for one in self._asked.values()}
        left = {name: done for name, done in leaving.items() if name not in asked}
        tasks = list(inbox.tasks)
        tasks += [(partial(Engine.take_off, name=name), done) for name, done in left.items()]
        for do, done in tasks:
            _done(do, self.engine, done)
        with self._change:
            for name in left:
                del self._leaving[name]
        return bool(self._asked) or not self._inbox.stopping

    def _tell(self, deltas: list[Delta]) -> None:
        now = time.monotonic()
        self.telling.steps += 1
        for delta in deltas:
            one = self._asked[delta.number]
            if not one.began and not delta.reason:
                one.began = True
                self.telling.first(now - one.since, len(one.request.ids), delta.known)
            self.telling.generated += len(delta.tokens)
            if delta.finish:
                self._end(one, delta)
            else:
                self._say(one, delta)

    def _say(self, one: Asked, delta: Delta) -> None:
        try:
            one.sink(delta)
        except RuntimeError:  # as of an event loop that has been closed
            if one.request.number in self._asked:
                self.engine.cancel(one.request.number)
                self._end(one, Delta(one.request.number, finish="cancelled", reason="Nobody listens any more."))

    def _end(self, one: Asked, delta: Delta) -> None:
        self._asked.pop(one.request.number, None)
        self.telling.ended(delta.finish or "error", time.monotonic() - one.since)
        with self._change:  # whoever is told finds room for the next
            self._outstanding -= 1
            self._change.notify_all()
        self._say(one, delta)


def _done(do: Callable[[Engine], None], engine: Engine, done: Future[None]) -> None:
    try:
        do(engine)
    except BaseException as error:
        done.set_exception(error)
        raise
    done.set_result(None)


def ask(worker: Worker, request: Request, seconds: float = 600.0) -> list[Delta]:
    """Return all that is said to one request; raises what `submit` does."""
    return ask_all(worker, [request], seconds)[0]


def ask_all(worker: Worker, requests: list[Request], seconds: float = 600.0) -> list[list[Delta]]:
    """Return all that is said to requests that are asked at once; raises what `submit` does."""
    found: dict[int, list[Delta]] = {request.number: [] for request in requests}
    left, ended = len(requests), threading.Event()

    def sink(delta: Delta) -> None:
        nonlocal left
        found[delta.number].append(delta)
        left -= delta.finish is not None
        if not left:
            ended.set()

    for n, request in enumerate(requests):
        try:
            worker.submit(request, sink, seconds)
        except BaseException:
            for other in requests[:n]:
                worker.cancel(other.number)
            raise
    if requests:
        ended.wait()
    return list(found.values())
