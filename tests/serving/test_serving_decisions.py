"""Typed decisions: probabilities are those of the options' log-likelihoods, asked as a run asked where there is one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from test_serving_http import call

from tiny_models import adapted, causal
from tiny_tokenizers import CHAT, byte_level
from tunelift.core.records import Example
from tunelift.data.render import Renderer
from tunelift.data.template import Template
from tunelift.serving.app import App
from tunelift.serving.decisions import Measured
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.worker import Worker

MEASURED = Measured(Template("About: {text}\nTopic:", "data.prompt"), (" art", " sport", " politics"), 2.0)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    plain, chats = byte_level(), byte_level(template=CHAT)
    model = adapted(causal(max_position_embeddings=512))
    with Worker(Engine(model, plain, Limits(rows=8, queue=64, tokens=4096))) as worker:
        models = [Named("base", None, plain, model), Named("chats", None, chats, model)]
        models.append(Named("tuned", "default", plain, model, measured=MEASURED))
        yield App(Service(worker, models, Allowed(body=60000, seconds=60)))


def decided(app: App, state: Any, questions: Any, model: str = "base", **more: Any) -> Any:
    return call(app, "POST", "/v1/systemone", {"model": model, "state": state, "questions": questions} | more)


def shares(adapter: bool, prompt: str, options: list[str], temperature: float = 1.0) -> list[float]:
    """Return the options' probabilities by whole passes of the stock model over each row."""
    model = adapted(causal(max_position_embeddings=512))  # the server's own is changed while it serves
    (before, behind), scores = Renderer(byte_level(), 2**20).continued([Example("1", prompt, "")], [options])[0], []
    for ids in behind:
        with torch.no_grad(), nullcontext() if adapter else model.disable_adapter():
            logits = model(input_ids=torch.tensor([[*before, *ids]])).logits[0].double().log_softmax(dim=-1)
        places = range(len(before) - 1, len(before) + len(ids) - 1)
        scores.append(math.fsum(float(logits[place, token]) for place, token in zip(places, ids, strict=True)))
    weights = torch.softmax(torch.tensor(scores) / temperature, dim=0)
    return [float(weight) for weight in weights]


def test_a_choice_has_the_probabilities_of_its_options(app: App) -> None:
    criteria = {"billing": "invoices", "bugs": None, "other": None}
    questions = {"team": {"type": "choice", "instructions": "Which team?", "criteria": criteria}}
    said = decided(app, "It is broken.", questions).json
    answer = said["answers"]["team"]
    prompt = "It is broken.\n\nWhich team?\nbilling: invoices\nAnswer with one of: billing, bugs, other.\nAnswer:"
    expected = shares(False, prompt, [" billing", " bugs", " other"])
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert answer["choice"] == list(criteria)[expected.index(max(expected))]
    assert answer["confidence"] == pytest.approx((3 * max(expected) - 1) / 2, abs=1e-5)
    assert (answer["measured"], said["model"]) == (False, "base")
    assert said["usage"]["input_tokens"] == len(byte_level()(prompt)["input_ids"])


def test_yes_or_no_and_a_level(app: App) -> None:
    questions = {
        "urgent": {"type": "noul", "instructions": "Is it urgent?", "criteria": {"true": "needs an answer today"}},
        "harm": {"type": "score", "instructions": {"ask": "How bad?"}, "criteria": ["none", "some", "much"]},
    }
    answers = decided(app, {"text": "Help"}, questions, "tuned").json["answers"]
    prompt = '{"text": "Help"}\n\nIs it urgent?\nyes: needs an answer today\nAnswer yes or no.\nAnswer:'
    assert answers["urgent"]["noul"] == pytest.approx(shares(True, prompt, [" yes", " no"])[0], abs=1e-5)
    prompt = '{"text": "Help"}\n\n{"ask": "How bad?"}\n1: none\n2: some\n3: much\nAnswer with the number of the level.'
    expected = shares(True, f"{prompt}\nAnswer:", [" 1", " 2", " 3"])
    assert answers["harm"]["score"] == pytest.approx(expected[1] + 2 * expected[2], abs=1e-5)
    assert answers["harm"]["legend"] == {"0": "none", "1": "some", "2": "much"}
    assert sum(answers["harm"]["probabilities"].values()) == pytest.approx(1)


def test_a_run_is_asked_in_its_own_words_and_has_its_temperature(app: App) -> None:
    question = {"type": "choice", "criteria": {"sport": None, "art": "pictures", "politics": None}}
    answer = decided(app, {"text": "a goal", "page": 3}, {"topic": question}, "tuned").json["answers"]["topic"]
    expected = shares(True, "About: a goal\nTopic:", [" sport", " art", " politics"], temperature=2.0)
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert answer["measured"] is True
    few = decided(app, {"text": "a goal"}, {"t": {"type": "choice", "criteria": {"sport": None, "art": None}}}, "tuned")
    assert few.json["answers"]["t"]["measured"] is False  # the run chose among three
    others: list[tuple[Any, dict[str, Any]]] = [
        ({"text": "a goal"}, question | {"instructions": "Which?"}),
        ({"title": "a goal"}, question),
        ("a goal", question),
        ({"text": "a goal"}, question | {"criteria": {"sport": None, "art": None, "law": None}}),
        ({"text": "a goal"}, question | {"criteria": {"sport": None, " sport": None, "art": None}}),  # one label twice
    ]
    for state, other in others:
        assert decided(app, state, {"t": other}, "tuned").json["answers"]["t"]["measured"] is False


def test_no_instructions_are_none_however_they_are_written(app: App) -> None:
    question = {"type": "noul", "criteria": {"true": "late"}}
    first, second = (
        decided(app, "x", {"q": question | more}).json["answers"]["q"]["noul"] for more in ({}, {"instructions": None})
    )
    assert first == pytest.approx(second, abs=1e-9)


def test_a_model_that_chats_is_asked_by_its_template(app: App) -> None:
    questions = {"q": {"type": "noul", "instructions": "Is it?"}}
    by_template, plain = (
        decided(app, "x", questions, model).json["answers"]["q"]["noul"] for model in ("chats", "base")
    )
    assert by_template != pytest.approx(plain, abs=1e-6)
    assert 0 < by_template < 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"state": 3}, "state"),
        ({"state": None}, "state"),
        ({"questions": {}}, "questions"),
        ({"questions": {"q": {"type": "box"}}}, "questions.q"),
        ({"questions": {"q": {"type": "choice", "criteria": {"one": None}}}}, "questions.q"),
        ({"questions": {"q": {"type": "choice", "criteria": {" ": None, "b": None}}}}, "questions.q"),
        ({"questions": {"q": {"type": "score", "criteria": ["a"] * 11}}}, "questions.q"),
        ({"questions": {"q": {"type": "noul", "criteria": {"maybe": "x"}}}}, "questions.q"),
        ({"questions": {"q": {"type": "noul", "more": 1}}}, "questions.q"),
        ({"model": 1}, "model"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_what_is_no_decision_is_refused(app: App, change: dict[str, Any], field: str) -> None:
    said = call(app, "POST", "/v1/systemone", {"state": "x", "questions": {"q": {"type": "noul"}}} | change)
    assert said.status == 400
    assert said.json["error"]["param"] == field


def test_an_unknown_model_and_a_state_that_is_too_long(app: App) -> None:
    questions = {"q": {"type": "noul"}}
    assert decided(app, "x", questions, "ghost").status == 404
    assert decided(app, "x" * 5000, questions).status == 400
    assert decided(app, "\ud800", questions).status == 400
