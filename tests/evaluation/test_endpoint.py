"""Asking a model behind an address: what is sent, kept and tried again, and what is refused, on a server of our own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopback import Body, served
from tunelift.config.schema import EndpointSection
from tunelift.core.errors import InputError, TuneliftError
from tunelift.evaluation import endpoint
from tunelift.evaluation.endpoint import Reply, ask, check

pytest.importorskip("httpx2")

KEY = "sk-a-secret-of-this-test"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which is not for this machine
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    return tmp_path


def questions(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"question {i}"}] for i in range(count)]


def settings(address: str, **more: Any) -> EndpointSection:
    return EndpointSection.model_validate({"address": address, "served_model": "large", "timeout": 5} | more)


def asked_for(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def test_answers_come_in_order_and_are_asked_once(here: Path) -> None:
    with served(lambda body: f"answer to {asked_for(body)}") as server:
        own = settings(server.address, key_from="MY_KEY", request={"temperature": 0, "top_p": None}, at_once=3)
        replies = ask(own, [*questions(8), *questions(2)], "t", cache=True)
        assert [reply.text for reply in replies] == [f"answer to question {i}" for i in (*range(8), 0, 1)]
        assert replies[0] == Reply("answer to question 0", read=2, written=4)
        assert len(server.asked) == 8
        assert server.asked[0].keys() == {"model", "messages", "temperature", "path"}
        assert server.asked[0]["path"] == "/v1/chat/completions"
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        assert server.most_at_once <= 3
        assert ask(own, questions(8), "t", cache=True) == replies[:8]
        assert len(server.asked) == 8  # nothing was sent again
        ask(own.model_copy(update={"request": {"temperature": 1}}), questions(1), "t", cache=True)
        ask(own.model_copy(update={"served_model": "other"}), questions(1), "t", cache=True)
        ask(own.model_copy(update={"address": f"{server.address}/"}), questions(1), "t", cache=True)
        ask(own, questions(1), "t", cache=False)
        assert len(server.asked) == 11  # another request, another model, and no cache; the last "/" is no other address
    kept = [path.read_text() for path in (here / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 3
    assert not any(KEY in text or "MY_KEY" in text for text in kept)


def failing(times: int, failure: Any) -> Callable[[Body], Any]:
    """Return what fails so many times for each question, and then answers."""
    seen: dict[str, int] = {}

    def answer(body: Body) -> Any:
        text = asked_for(body)
        seen[text] = seen.get(text, 0) + 1
        return failure if seen[text] <= times else "right"

    return answer


BROKEN = [
    (429, {"error": {"message": "slow down"}}, {"retry-after": "0"}),
    (429, {"error": "slow down"}, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    (503, b"<html>busy</html>"),
    (500, b""),
    *(b"", b"not json", b"[" * 100_000, b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}'),
    b'{"choices": [{"message": {"content": 3}}]}',
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "many"}}',
]


@pytest.mark.parametrize("failure", BROKEN, ids=lambda failure: repr(failure)[:40])
def test_what_may_pass_is_tried_again_and_what_does_not_is_told(failure: Any) -> None:
    with served(failing(2, failure)) as server:
        replies = ask(settings(server.address, attempts=3), questions(2), "t", cache=True)
        assert [reply.text for reply in replies] == ["right", "right"]
        assert len(server.asked) == 6
    with (
        served(failing(3, failure)) as server,
        pytest.raises(TuneliftError, match=r"asked 3 times, and at last") as told,
    ):
        ask(settings(server.address, attempts=3, at_once=1), questions(2), "t", cache=True)
    assert server.address in str(told.value)
    assert len(str(told.value)) < 700


def test_pauses_double_and_an_address_may_ask_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(endpoint._Asking, "_cut_short", lambda self, pause: pauses.append(pause))
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 1.0)
    with served(failing(3, (503, b""))) as server:
        ask(settings(server.address, at_once=1), questions(1), "t", cache=False)
    assert [0.75 * 2**i <= pause <= 2**i for i, pause in enumerate(pauses)] == [True] * 3
    pauses.clear()
    with served(failing(2, (429, b"", {"retry-after": "7"}))) as server:
        ask(settings(server.address, at_once=1), questions(1), "t", cache=False)
    assert pauses == [7, 7]


def test_what_will_not_pass_ends_it_at_once_and_shows_no_key() -> None:
    said = {"error": {"message": f"Incorrect API key provided: {KEY}\x1b[31m"}}
    with served(lambda _: (401, said)) as server, pytest.raises(TuneliftError) as told:
        ask(settings(server.address, key_from="MY_KEY"), questions(40), "t", cache=True)
    assert "status 401" in str(told.value)
    assert "(the key)" in str(told.value)
    assert KEY not in str(told.value)
    assert "\x1b" not in str(told.value)
    assert len(server.asked) < 40
    elsewhere = (302, b"", {"location": "http://127.0.0.1:1/"})  # where it leads nobody named
    with served(lambda _: elsewhere) as server, pytest.raises(TuneliftError, match="status 302"):
        ask(settings(server.address), questions(1), "t", cache=True)


def test_nothing_that_was_answered_is_lost() -> None:
    broken = [True]

    def answer(body: Body) -> Any:
        return (400, {"error": {"message": "too long"}}) if broken[0] and "7" in asked_for(body) else "fine"

    with served(answer) as server:
        own = settings(server.address, at_once=1)
        with pytest.raises(TuneliftError, match="status 400: 'too long'") as told:
            ask(own, questions(12), "t", cache=True)
        assert "7 of 12 answered. They are kept" in str(told.value)
        broken[0], before = False, len(server.asked)
        assert {reply.text for reply in ask(own, questions(12), "t", cache=True)} == {"fine"}
        assert len(server.asked) - before == 5


def test_silence_an_endless_answer_and_nobody_there() -> None:
    done = threading.Event()

    def silent(_: Body) -> str:
        done.wait(20)
        return "late"

    with served(silent) as server:
        with pytest.raises(TuneliftError, match=r"no answer within 0.2 s"):
            ask(settings(server.address, timeout=0.2, attempts=2), questions(1), "t", cache=True)
        done.set()
    endless, said = b"x" * (endpoint.LARGEST_ANSWER + 1), "more than 4,194,304 bytes"
    with served(lambda _: endless) as server, pytest.raises(TuneliftError, match=said):
        ask(settings(server.address), questions(1), "t", cache=True)
    with pytest.raises(TuneliftError, match="ConnectError"):
        ask(settings(server.address, attempts=2), questions(1), "t", cache=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"address": "ftp://host/v1"}, "address is no"),
        ({"address": "host/v1"}, "address is no"),
        ({"address": "http://host:port/v1"}, "address is no"),
        ({"address": "https://user:word@host/v1"}, "a key belongs into an environment variable"),
        ({"address": "https://host/v1?key=abc"}, "a key belongs into an environment variable"),
        ({"served_model": " "}, "does not say which model"),
        ({"key_from": "NOT_SET_AT_ALL"}, "the environment variable NOT_SET_AT_ALL, which key_from names, is not set"),
        ({"key_from": KEY}, "key_from is no name of an environment variable"),
        ({"key_from": "BROKEN_KEY"}, "the environment variable BROKEN_KEY holds blanks"),
        ({"key_from": "MY_KEY", "address": "http://10.0.0.1/v1"}, "over https only"),
        ({"key_from": "MY_KEY", "address": "http://localhost.evil.example/v1"}, "over https only"),
        ({"request": {"messages": [], "stream": True}}, "request may not hold messages, stream"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN_KEY", "two words")
    with pytest.raises(InputError, match=said) as told:
        check(settings(**{"address": "https://host/v1"} | wrong))
    assert KEY not in str(told.value)
    check(settings("http://[::1]:80/v1", key_from="MY_KEY"))
    check(settings("https://host/v1/chat/completions", key_from="MY_KEY"))


def test_no_form_of_answer_is_taken_for_another() -> None:
    body = {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": None}
    with served(lambda _: json.dumps(body).encode()) as server:
        assert ask(settings(server.address), questions(1), "t", cache=False) == [Reply("", cut=True)]


@pytest.mark.parametrize("status", [200, 401, 503])
def test_no_part_of_a_key_is_left_where_what_a_server_says_is_cut(status: int) -> None:
    for before in range(270, 300, 4):
        said = {"error": {"message": f"{'x' * before} {KEY} is no key"}}
        with served(lambda body, said=said: (status, said)) as server, pytest.raises(TuneliftError) as told:
            ask(settings(server.address, key_from="MY_KEY", attempts=1), questions(1), "t", cache=False)
        cause = told.value.__cause__
        assert "sk-" not in str(told.value) + str(cause), before
