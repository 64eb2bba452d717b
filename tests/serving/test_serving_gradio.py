"""A chat that people use, gradio's, in a browser, over the server on a socket: what is typed is answered and shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_serving_openai import client_of

from chromium_pipe import CHROMIUM, Browser
from tiny_models import adapted, causal
from tiny_tokenizers import CHAT, byte_level
from tunelift.serving.app import App
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.worker import Worker

gradio = pytest.importorskip("gradio", reason="a chat in a browser: pip install gradio, which is in no extra")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the path of a POSIX system")

SECONDS = 60
QUESTION = "what does the cat say?"
SAID = "[...document.querySelectorAll('{} .prose')].map((one) => one.textContent.trim())"
BOT, USER = (SAID.replace("{}", f".{kind}") for kind in ("bot", "user"))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    tokenizer, model = byte_level(template=CHAT), adapted(causal(max_position_embeddings=1024))
    with Worker(Engine(model, tokenizer, Limits(rows=8, queue=32, tokens=8192))) as worker:
        models = [Named("base", None, tokenizer, model), Named("tuned", "default", tokenizer, model)]
        with client_of(App(Service(worker, models, Allowed(new_tokens=200)), "secret")) as found:
            yield found


@pytest.fixture(params=["load_chat", "ChatInterface"])
def page(request: pytest.FixtureRequest, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of a chat: gradio's own of an OpenAI address, or one that streams through OpenAI's client."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")

    def answer(message: str, history: list[dict[str, Any]]) -> Iterator[str]:
        turns = [{"role": one["role"], "content": one["content"]} for one in history]
        messages: Any = [*turns, {"role": "user", "content": message}]
        said = ""
        for part in client.chat.completions.create(model="tuned", messages=messages, max_tokens=24, stream=True):
            said += (part.choices[0].delta.content or "") if part.choices else ""
            yield said

    if request.param == "load_chat":
        chat = gradio.load_chat(str(client.base_url), model="tuned", token="secret", streaming=True)
    else:
        chat = gradio.ChatInterface(answer)
    _, address, _ = chat.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    yield address
    chat.close()


def until(browser: Browser, expression: str, fine: Any = bool) -> Any:
    """Return the value of an expression once it is as it should be."""
    end = time.monotonic() + SECONDS
    while not fine(value := browser.evaluate(expression)):
        assert time.monotonic() < end, f"{expression} stays {value!r}; the page says {browser.complaints[-3:]}"
        time.sleep(0.2)
    return value


def say(browser: Browser, text: str) -> None:
    """Type a text and send it, once the page has a field for it and the last answer is whole."""
    box = "document.querySelector('textarea')"

    def typed(value: str | None) -> bool:
        if value == "":
            browser.evaluate(f"{box}.focus()")
            browser.ask("Input.insertText", text=text)
        return value == text

    def sent(value: str | None) -> bool:
        if value:
            browser.press("Enter", 13, "\r")
        return value == ""

    until(browser, f"{box} && {box}.value", typed)
    until(browser, f"{box} && {box}.value", sent)


def test_what_is_typed_is_answered(page: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.ask("Page.navigate", url=page)
        for turn in (1, 2):
            say(browser, QUESTION)
            users = until(browser, USER, lambda found, turn=turn: len(found) == turn)
            assert users == [QUESTION] * turn
            until(browser, BOT, lambda found, turn=turn: len(found) == turn and bool(found[-1]))
        assert "error" not in " ".join(browser.evaluate(BOT)).lower()
        browser.photograph(tmp_path / "chat.png", whole=False)
