"""The server over ASGI: OpenAI's forms, errors, limits, streams, who may ask, clients that go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_models import adapted, causal
from tiny_tokenizers import CHAT, byte_level
from tunelift.serving.app import App
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.requests import Delta, Request, Stop
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.worker import StoppedError, Worker, ask, ask_all

JSON = {"content-type": "application/json", "host": "localhost"}


@dataclass
class Said:
    """What an application answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def call(
    app: App,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] = JSON,
    leave_after: int | None = None,
) -> Said:
    """Ask an application once; the client goes after so many parts of its answer."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    said = Said()

    async def exchange() -> None:
        gone = asyncio.Event()
        chunks = [raw[i : i + 1000] for i in range(0, len(raw), 1000)] or [b""]

        async def receive() -> dict[str, Any]:
            if chunks:
                part = chunks.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(chunks)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(event: Mapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                assert not said.status
                said.status = event["status"]
                said.headers = {key.decode().lower(): value.decode() for key, value in event["headers"]}
                return
            said.body += event.get("body", b"")
            said.parts.append(event.get("body", b""))
            if leave_after is not None and len(said.parts) >= leave_after:
                gone.set()

        pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": b""}
        await app(scope, receive, send)

    asyncio.run(exchange())
    return said


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Give a tiny model with a chat template, and an adapter of it."""
    tokenizer = byte_level(template=CHAT)
    model = adapted(causal())
    with Worker(Engine(model, tokenizer, Limits(rows=8, queue=32, tokens=4096))) as worker:
        models = [Named("base", None, tokenizer, model), Named("tuned", "default", tokenizer, model)]
        yield Service(worker, models, Allowed(body=20000, new_tokens=64, seconds=60))


@pytest.fixture(scope="module")
def app(service: Service) -> App:
    return App(service)


def chat(app: App, **fields: Any) -> Said:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    return call(app, "POST", "/v1/chat/completions", body | fields)


def complete(app: App, leave_after: int | None = None, **fields: Any) -> Said:
    body = {"model": "base", "prompt": "ab", "temperature": 0} | fields
    return call(app, "POST", "/v1/completions", body, leave_after=leave_after)


def test_answers_have_openais_form(app: App) -> None:
    said = chat(app, logprobs=True, top_logprobs=2).json
    (choice,) = said["choices"]
    assert said["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    told = choice["logprobs"]["content"]
    assert len(told) == said["usage"]["completion_tokens"] <= 8
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in told)
    assert said["usage"]["total_tokens"] == said["usage"]["prompt_tokens"] + said["usage"]["completion_tokens"]
    plain = complete(app, logprobs=1, max_tokens=4).json
    assert plain["object"] == "text_completion"
    assert len(plain["choices"][0]["logprobs"]["tokens"]) == plain["usage"]["completion_tokens"] == 4
    names = [model["id"] for model in call(app, "GET", "/v1/models").json["data"]]
    assert names == ["base", "tuned"]
    assert call(app, "GET", "/v1/models/tuned").json["id"] == "tuned"


def test_what_chats_keep_beside_a_message_changes_nothing(app: App) -> None:
    """As gradio sends it back: parts of texts, with what it shows beside them."""
    texts = [("user", "hi"), ("assistant", "a"), ("user", "so?")]
    plain = chat(app, messages=[{"role": role, "content": text} for role, text in texts])
    beside = {"metadata": {"title": None}, "options": None, "id": "7", "timestamp": 3}
    kept = [{"role": role, "content": [{"type": "text", "text": text}], **beside} for role, text in texts]
    assert (plain.status, plain.json["choices"]) == (200, chat(app, messages=kept).json["choices"])


def test_a_stream_says_what_a_whole_answer_does(app: App) -> None:
    for ask_app, text in ((chat, lambda c: c["delta"].get("content", "")), (complete, lambda c: c["text"])):
        whole = ask_app(app, n=2, seed=3, temperature=1.5, max_tokens=12).json
        events = ask_app(
            app, n=2, seed=3, temperature=1.5, max_tokens=12, stream=True, stream_options={"include_usage": True}
        ).events
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        for choice in whole["choices"]:
            own = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == choice["index"]]
            said = choice["message"]["content"] if ask_app is chat else choice["text"]
            assert "".join(map(text, own)) == said
            assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]


def test_models_answer_as_their_own_and_prompts_may_be_many(app: App, service: Service) -> None:
    texts = {name: complete(app, model=name, max_tokens=12).json["choices"][0]["text"] for name in service.models}
    assert texts["base"] != texts["tuned"]
    ids, _ = service.named("base").asked("ab")
    several = complete(app, prompt=["ab", "xyz"], max_tokens=12).json["choices"]
    assert several[0]["text"] == texts["base"] == complete(app, prompt=ids, max_tokens=12).json["choices"][0]["text"]
    request = Request(ids, adapter="default", stop=Stop(max_new_tokens=12))
    deltas = ask(service.worker, request)
    assert "".join(delta.text for delta in deltas) == texts["tuned"]
    assert len(ask_all(service.worker, [])) == 0


def test_echo_scores_a_prompt(app: App, service: Service) -> None:
    found = complete(app, prompt="abcd", echo=True, logprobs=1, max_tokens=0).json["choices"][0]
    ids, _ = service.named("base").asked("abcd")
    assert found["text"].endswith("abcd")
    assert len(found["logprobs"]["token_logprobs"]) == len(ids)
    assert found["logprobs"]["token_logprobs"][0] is None
    assert all(value <= 0 for value in found["logprobs"]["token_logprobs"][1:])


def test_a_stop_string_ends_an_answer_before_it(app: App) -> None:
    whole = complete(app, max_tokens=30).json["choices"][0]["text"]
    stop = whole[5:8]
    cut = complete(app, max_tokens=30, stop=stop).json["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    streamed = complete(app, max_tokens=30, stop=[stop], stream=True).events
    assert "".join(event["choices"][0]["text"] for event in streamed) == cut["text"]


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "status", "names"),
    [
        ("completions", b"{", 400, None),
        ("completions", b"[" * 9999, 400, None),
        ("completions", b"\xff\xfe", 400, None),
        ("completions", {"prompt": "a", "tempreature": 1}, 400, "tempreature"),
        ("completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature"),
        ("completions", b'{"prompt": "a", "temperature": NaN}', 400, None),
        ("completions", {"prompt": "a", "top_p": 0}, 400, None),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("completions", {"prompt": [[999999]]}, 400, None),
        ("completions", {"prompt": "a", "n": 17}, 400, "n"),
        ("completions", {"prompt": "a", "max_tokens": 65}, 400, "max_tokens"),
        ("completions", {"prompt": "a" * 9000}, 400, None),
        ("completions", {"prompt": "a", "suffix": "b"}, 400, "suffix"),
        ("completions", {"prompt": "a", "stop": [""]}, 400, "stop"),
        ("completions", {"prompt": "a", "logit_bias": {"999999": 1}}, 400, None),
        ("completions", {"prompt": "\ud800"}, 400, "prompt"),
        ("completions", {"prompt": "a" * 30000}, 413, None),
        ("completions", {"prompt": "a", "model": "other"}, 404, "model"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "robot", "content": "a"}]}, 400, "messages[0]"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0]"),
        ("chat/completions", {"messages": [USER, {"role": "assistant", "content": "a"}]}, 400, "messages"),
        ("chat/completions", {"messages": [USER], "tools": [{"type": "function"}]}, 400, "tools[0]"),
        ("chat/completions", {"messages": [USER], "top_logprobs": 2}, 400, "top_logprobs"),
        ("nothing", {}, 404, None),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_form(
    app: App, path: str, body: Any, status: int, names: str | None
) -> None:
    said = call(app, "POST", f"/v1/{path}", body)
    assert said.status == status
    error = said.json["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == names


def test_who_may_ask(service: Service) -> None:
    paths = [("GET", "/health"), ("GET", "/metrics"), ("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/x")]
    closed, bearer = App(service, token="secret"), {"authorization": "Bearer secret"}
    for method, path in paths:
        for headers in (
            {},
            {"authorization": "Bearer secre"},
            {"authorization": "Basic secret"},
            {"host": "localhost"},
        ):
            assert call(closed, method, path, {}, JSON | headers).status == 401
    assert call(closed, "GET", "/health", headers=bearer).status == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        assert call(App(service), "GET", "/v1/models", headers={"host": host}).status == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80"):
        assert call(App(service), "GET", "/v1/models", headers={"host": host}).status == 200
    said = call(
        App(service), "POST", "/v1/completions", {"prompt": "a"}, {"host": "localhost", "content-type": "text/plain"}
    )
    assert said.status == 415  # which a page of another site could send without being asked
    assert call(App(service), "GET", "/v1/completions").headers["allow"] == "POST"


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_goes_takes_its_request_with_it(app: App, service: Service) -> None:
    before = service.worker.telling.finished["cancelled"]
    said = complete(app, max_tokens=64, stream=True, leave_after=2, logit_bias={"1": -100})
    assert b"[DONE]" not in said.body
    wait_for(lambda: service.worker.outstanding == 0)
    assert service.worker.telling.finished["cancelled"] > before


def test_a_request_to_which_nobody_listens_any_more_is_not_outstanding(service: Service) -> None:
    """As of an event loop that is closed while the worker speaks."""

    def closed(_: Delta) -> None:
        raise RuntimeError("Event loop is closed")

    before = service.worker.telling.finished["cancelled"]
    service.worker.submit(Request([5, 6, 7], stop=Stop(max_new_tokens=64)), closed)
    wait_for(lambda: service.worker.outstanding == 0)
    assert service.worker.telling.finished["cancelled"] == before + 1
    assert ask(service.worker, Request([5, 6, 7], stop=Stop(max_new_tokens=2)))[-1].finish == "length"


def test_metrics_and_health(app: App) -> None:
    complete(app)
    said = call(app, "GET", "/metrics")
    lines = [line for line in said.body.decode().splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert values["tunelift_generated_tokens_total"] > 0
    assert values['tunelift_first_token_seconds_bucket{le="+Inf"}'] == values["tunelift_first_token_seconds_count"]
    assert call(app, "GET", "/health").json["status"] == "ok"


def test_a_full_queue_a_late_answer_and_a_stop() -> None:
    tokenizer, model = byte_level(), causal()
    worker = Worker(Engine(model, tokenizer, Limits(rows=1, queue=1, tokens=1024)))
    service = Service(worker, [Named("base", None, tokenizer, model)], Allowed(seconds=0.0))
    app = App(service)
    long = Request([3, 4], stop=Stop(max_new_tokens=100))
    for number in range(2):  # nothing is answered yet
        worker.submit(Request(long.ids, stop=long.stop), lambda _: None, seconds=60 * number)
    full = complete(app)
    assert (full.status, full.json["error"]["type"], full.headers["retry-after"]) == (429, "rate_limit_error", "1")
    worker.start()
    wait_for(lambda: worker.outstanding == 0)
    assert worker.telling.late == 1
    late = complete(app, max_tokens=16, logit_bias={"1": -100})
    assert late.json["choices"][0]["finish_reason"] == "length"
    worker.stop()
    assert complete(app).status == 503
    with pytest.raises(StoppedError):
        worker.submit(long, lambda _: None)


def test_whoever_waits_is_told_when_the_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = byte_level(), causal()
    engine = Engine(model, tokenizer, Limits())
    monkeypatch.setattr(engine, "step", lambda: 1 / 0)
    with Worker(engine) as worker:
        app = App(Service(worker, [Named("base", None, tokenizer, model)]))
        assert complete(app).json["error"]["type"] == "server_error"
        assert call(app, "GET", "/health").status == 503


NAMES = [
    *("model", "prompt", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "stream", "logprobs", "seed"),
    *("logit_bias", "echo", "top_k", "stream_options", "response_format", "top_logprobs", "min_p", "presence_penalty"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["base", "tuned", "user", "system", "json_object", "text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "1", "include_usage"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
GOOD = st.fixed_dictionaries({"prompt": st.text(min_size=1, max_size=5), "max_tokens": st.integers(1, 3)})
BODIES = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    st.tuples(GOOD, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)).map(lambda two: {**two[0], **two[1]}),
)


@given(path=st.sampled_from(["/v1/completions", "/v1/chat/completions"]), body=BODIES)
@settings(max_examples=150, deadline=None)
def test_no_body_fails_the_server(app: App, service: Service, path: str, body: Any) -> None:
    said = call(app, "POST", path, body)
    assert said.status in (200, 400, 404)
    if said.status != 200:
        assert said.json["error"]["type"] == "invalid_request_error"
    elif b"data: " not in said.body[:6]:
        assert said.json["usage"]["completion_tokens"] <= 16 * service.allowed.new_tokens
    assert service.worker.outstanding == 0
