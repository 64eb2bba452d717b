"""The server as an ASGI application: routes, who may ask, limits of a body and of time, streams, errors.

It is plain ASGI, without a framework: a few routes, and every limit in sight.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any
from uuid import uuid4

from tunelift.core.errors import InputError, TuneliftError
from tunelift.serving.answers import Choice, Form, error_object
from tunelift.serving.bodies import Body, BodyError, adapter_body, chat_body, plain_body, read_json
from tunelift.serving.decisions import Asked, read_decisions
from tunelift.serving.engine import FullError
from tunelift.serving.requests import Delta, Request
from tunelift.serving.service import Named, UnknownModelError
from tunelift.serving.worker import StoppedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOCAL = ("localhost", "127.0.0.1", "[::1]")
JSON = b"application/json"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class Refused(Exception):  # noqa: N818 - no error of ours: an answer
    """A request that is answered with an error of HTTP: its status, and OpenAI's kind, field and code."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", parameter: str | None = None,
        *, code: str | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.parameter, self.code = status, kind, parameter, code
        self.headers = headers or {}


class App:
    """The application. With a `token` every route asks for it; without one only this machine's own names are served."""

    def __init__(self, service: Any, token: str | None = None) -> None:
        self.service: Any = service  # whose models answer: see Service, and EmbeddingService
        self.token = token
        self._one_by_one = ThreadPoolExecutor(1)  # for what takes long, lest it take the threads that read bodies
        self.routes: Mapping[tuple[str, str], Callable[..., Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._completions,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/systemone"): self._decisions,
            ("POST", LOAD): self._adapters,
            ("POST", UNLOAD): self._adapters,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            answer = _Answer(scope, receive, send)
            await self._answered(answer)
            paths = {path for _, path in self.routes}  # no name that a stranger makes up
            route = scope["path"] if scope["path"] in paths else "other"
            self.service.worker.telling.answers[route, answer.status] += 1

    async def _answered(self, answer: _Answer) -> None:
        allowed = self.service.allowed
        try:
            async with asyncio.timeout(allowed.body_seconds + allowed.seconds + 30):
                await self._routed(answer)
        except Refused as refused:
            await answer.error(refused)
        except TimeoutError:
            await answer.error(Refused(408, "The request took too long.", "timeout"))
        except OSError:  # the client has gone
            answer.status = answer.status or 499
        except Exception as error:
            traceback.print_exception(error)
            await answer.error(Refused(500, "The server failed; its log says how.", "server_error"))

    async def _routed(self, answer: _Answer) -> None:
        self._check_who_asks(answer)
        method, path = answer.scope["method"], answer.scope["path"]
        route = self.routes.get(("GET" if method == "HEAD" else method, path))
        if route is None and path.startswith("/v1/models/") and method == "GET":
            return await self._model(answer, path.removeprefix("/v1/models/"))
        if route is None:
            allowed = [m for m, p in self.routes if p == path]
            if allowed:
                raise Refused(405, f"{path} takes {allowed[0]}.", headers={"Allow": allowed[0]})
            raise Refused(404, f"There is no {path:.80}. Routes: {', '.join(p for _, p in self.routes)}.")
        await route(answer)

    def _check_who_asks(self, answer: _Answer) -> None:
        """Ask for the token. Without one refuse other names for this machine, by which a page in a browser gets in."""
        if self.token is not None:
            given = answer.header(b"authorization").partition(b" ")
            if given[0].lower() != b"bearer" or not hmac.compare_digest(given[2].strip(), self.token.encode()):
                raise Refused(
                    401, "Send this server's token: Authorization: Bearer TOKEN.", "authentication_error",
                    code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
            return
        host = answer.header(b"host").decode("latin-1")
        name = host[: host.index("]") + 1] if "]" in host else host.partition(":")[0]
        if name.lower() not in LOCAL:
            raise Refused(403, "Without a token this server answers to localhost alone.", "permission_error")

    async def _health(self, answer: _Answer) -> None:
        worker = self.service.worker
        said = {"status": "failed" if worker.broken else "ok", "outstanding": worker.outstanding}
        await answer.json(503 if worker.broken else 200, said)

    async def _metrics(self, answer: _Answer) -> None:
        text = self.service.worker.telling.text(self.gauges())
        await answer.send(200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")

    def gauges(self) -> Sequence[tuple[str, str, float]]:
        """Return what is now: names, what they are, and values."""
        worker, pages = self.service.worker, self.service.worker.engine.pages
        return (
            ("outstanding_requests", "Requests that are answered or waiting.", worker.outstanding),
            ("running_requests", "Requests in the batch.", len(worker.engine.running)),
            ("pages", "Pages for keys and values.", pages.count),
            ("free_pages", "Pages that hold nothing.", pages.free),
            ("known_pages", "Pages that hold known beginnings.", pages.known),
        )

    async def _models(self, answer: _Answer) -> None:
        await answer.json(200, {"object": "list", "data": [_model(name) for name in self.service.models]})

    async def _model(self, answer: _Answer, name: str) -> None:
        if name not in self.service.models:
            raise Refused(404, f"There is no model {name!r:.80} here.", code="model_not_found")
        await answer.json(200, _model(name))

    async def _completions(self, answer: _Answer) -> None:
        chat = answer.scope["path"].endswith("/chat/completions")
        body, requests = await self._understood(answer, partial(self._read, chat=chat))
        named = self.service.named(body.model)
        form = Form(uuid4().hex, named.name, named.tokenizer, chat=chat, echo=body.echo)
        choices = {request.number: Choice(request, reading=named.reading(body)) for request in requests}
        if body.streamed:
            async with aclosing(self._deltas(requests, answer)) as deltas:
                return await self._stream(answer, form, body, choices, deltas)
        for delta in await self._all(requests, answer):
            choices[delta.number].add(delta)
        await answer.json(200, form.whole(list(choices.values())))

    async def _decisions(self, answer: _Answer) -> None:
        """Score what a question may be answered with: of each question one answer first, whose prompt others share."""
        named, asked = await self._understood(answer, self._questions)
        by_number = {request.number: one for one in asked.values() for request in one.requests}
        firsts, tokens = [one.requests[0] for one in asked.values()], 0
        for requests in (firsts, [request for one in asked.values() for request in one.requests[1:]]):
            for delta in await self._all(requests, answer):
                by_number[delta.number].add(delta)
                tokens += len(delta.prompt)
        usage = {"input_tokens": sum(first.scored_from or 0 for first in firsts), "output_tokens": tokens}
        answers = {name: one.answer() for name, one in asked.items()}
        await answer.json(200, {"model": named.name, "answers": answers, "usage": usage})

    async def _adapters(self, answer: _Answer) -> None:
        """Load or unload an adapter, by vLLM's form; what is asked meanwhile goes on."""
        adapters = self.service.adapters
        if adapters is None:
            raise Refused(404, "Adapters are not loaded while this server runs: it was begun without --adapters-from.")
        loads = answer.scope["path"] == LOAD

        def change(raw: bytes) -> str:
            name, path = adapter_body(read_json(raw), loads=loads)
            adapters.load(name, path) if loads else adapters.unload(name)
            return name

        name = await self._understood(answer, change, self._one_by_one)
        said = f"Success: LoRA adapter '{name}' {'added' if loads else 'removed'} successfully."
        await answer.send(200, said.encode(), b"text/plain; charset=utf-8")

    async def _understood(
        self, answer: _Answer, read: Callable[[bytes], Any], threads: ThreadPoolExecutor | None = None
    ) -> Any:
        """Return what `read` makes of a body in another thread; raise Refused where it cannot be answered."""
        raw = await answer.body(self.service.allowed.body, self.service.allowed.body_seconds)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, read, raw)
        except BodyError as error:
            missing = isinstance(error, UnknownModelError)
            code = "model_not_found" if missing else None
            raise Refused(404 if missing else 400, str(error), parameter=error.parameter, code=code) from None
        except InputError as error:
            raise Refused(400, str(error)) from None
        except StoppedError as error:
            raise _stopping(error) from None
        except TuneliftError as error:
            raise Refused(500, str(error), "server_error") from None
        except OSError as error:  # as of a file that cannot be read; the client is still there
            raise Refused(500, f"The server failed: {error.strerror or error!s:.200}.", "server_error") from None

    def _questions(self, raw: bytes) -> tuple[Named, dict[str, Asked]]:
        found: tuple[Named, dict[str, Asked]] = self.service.decisions(read_decisions(read_json(raw)))
        return found

    def _read(self, raw: bytes, chat: bool) -> tuple[Body, list[Request]]:
        body = (chat_body if chat else plain_body)(read_json(raw))
        return body, self.service.requests(body)

    async def _stream(
        self, answer: _Answer, form: Form, body: Body, choices: dict[int, Choice], deltas: AsyncIterator[Delta]
    ) -> None:
        """Send an answer as it is written, as server-sent events."""
        order = list(choices)
        await answer.begin(200, b"text/event-stream; charset=utf-8", {"Cache-Control": "no-store"})
        if form.chat:
            for n in range(len(order)):
                await answer.event(form.opening(n))
        async for delta in deltas:
            if delta.finish == "error":
                await answer.event(error_object(delta.reason, "server_error"))
                return await answer.end()
            choice = choices[delta.number]
            text = choice.add(delta)
            if text or delta.tokens or delta.finish:
                await answer.event(form.part(order.index(delta.number), choice, text, delta.tokens))
        if body.usage:
            await answer.event(form.counted(list(choices.values())))
        await answer.more(b"data: [DONE]\n\n")
        await answer.end()

    async def _all(self, requests: Sequence[Request], answer: _Answer) -> list[Delta]:
        """Return all that is said to requests; raise Refused where one fails, and cancel the others."""
        found = list[Delta]()
        async with aclosing(self._deltas(requests, answer)) as deltas:
            async for delta in deltas:
                if delta.finish == "error":
                    raise Refused(500, delta.reason, "server_error")
                found.append(delta)
        return found

    async def _deltas(self, requests: Sequence[Request], answer: _Answer) -> AsyncGenerator[Delta, None]:
        """Yield what is said to requests as it comes; they are cancelled when the client goes or nobody listens."""
        worker, loop, left = self.service.worker, asyncio.get_running_loop(), len(requests)
        said: asyncio.Queue[Delta | None] = asyncio.Queue()

        def sink(delta: Delta) -> None:
            loop.call_soon_threadsafe(said.put_nowait, delta)

        gone = asyncio.ensure_future(answer.gone())
        gone.add_done_callback(lambda _: said.put_nowait(None))
        try:
            for request in requests:
                worker.submit(request, sink, self.service.allowed.seconds)
            while left:
                delta = await said.get()
                if delta is None:
                    raise ConnectionError("the client has gone")
                left -= delta.finish is not None
                yield delta
        except FullError as error:
            raise Refused(429, str(error), "rate_limit_error", headers={"Retry-After": "1"}) from None
        except StoppedError as error:
            raise _stopping(error) from None
        except InputError as error:  # as of an adapter that was unloaded a moment ago
            raise Refused(404, str(error), code="model_not_found") from None
        finally:
            gone.cancel()
            if left:
                for request in requests:
                    worker.cancel(request.number)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"].rpartition(".")[2]
            if kind == "shutdown":
                await asyncio.to_thread(self.service.worker.stop)
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return


class _Answer:
    """One exchange: what the client sends, and what is sent to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.status = 0

    def header(self, name: bytes) -> bytes:
        """Return a header's value; that of one that comes twice is empty, since nobody knows which is meant."""
        found = [value for key, value in self.scope["headers"] if key.lower() == name]
        return bytes(found[0]) if len(found) == 1 else b""

    async def body(self, most: int, seconds: float) -> bytes:
        """Return the body of JSON, of at most so many bytes, within so many seconds."""
        if self.header(b"content-type").partition(b";")[0].strip().lower() != JSON:
            raise Refused(415, "Send JSON: Content-Type: application/json.")
        too_large = Refused(413, f"The body has more than {most} bytes.", headers={"Connection": "close"})
        length = self.header(b"content-length")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        try:
            raw = await asyncio.wait_for(self._received(most), seconds)
        except TimeoutError:
            raise Refused(408, "The body took too long.", "timeout", headers={"Connection": "close"}) from None
        if raw is None:
            raise too_large
        return raw

    async def _received(self, most: int) -> bytes | None:
        """Return the body, None where it has more than so many bytes, of which no more are read then."""
        raw, more = bytearray(), True
        while more:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the client has gone")
            raw += event.get("body", b"")
            more = event.get("more_body", False)
            if len(raw) > most:
                return None
        return bytes(raw)

    async def gone(self) -> None:
        """Return when the client has gone; the body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        await self.send(status, json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), JSON, headers)

    async def error(self, refused: Refused) -> None:
        """Send an error, unless an answer has been begun; then the connection ends without the answer's end."""
        if self.status:
            return
        said = error_object(str(refused), refused.kind, refused.parameter, refused.code)
        with suppress(OSError):
            await self.json(refused.status, said, refused.headers)

    async def send(self, status: int, raw: bytes, kind: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self.begin(status, kind, {"Content-Length": str(len(raw)), **(headers or {})})
        await self._send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else raw})

    async def begin(self, status: int, kind: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        made = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *made]})

    async def event(self, value: Any) -> None:
        await self.more(b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n")

    async def more(self, raw: bytes) -> None:
        await self._send({"type": "http.response.body", "body": raw, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


def _stopping(error: StoppedError) -> Refused:
    return Refused(503, str(error), "server_error", headers={"Retry-After": "5"})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tunelift"}
