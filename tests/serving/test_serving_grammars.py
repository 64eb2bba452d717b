"""Answers held to a form: whatever a model of random weights would say, it says what the form allows."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from time import perf_counter, process_time
from typing import Any

import jsonschema
import pytest
import torch
from test_serving_http import call, chat, complete

from tiny_models import causal
from tiny_tokenizers import CHAT, byte_level
from tunelift.core.errors import InputError
from tunelift.serving.app import App
from tunelift.serving.engine import Engine, Limits, answered
from tunelift.serving.grammars import Form, FormError, Grammars, form_of
from tunelift.serving.requests import Request, Sampling, Stop
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.worker import Worker

pytest.importorskip("llguidance", reason="the extra serve")

SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["sport", "art"]},
        "sure": {"type": "boolean"},
        "page": {"type": "integer", "minimum": 0, "maximum": 99},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["topic", "sure", "page", "names"],
    "additionalProperties": False,
}


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"in": DEEP}}


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    tokenizer, model = byte_level(template=CHAT), causal(max_position_embeddings=512)
    with Worker(Engine(model, tokenizer, Limits(rows=8, queue=32, tokens=4096))) as worker:
        yield App(Service(worker, [Named("base", None, tokenizer, model)], Allowed(new_tokens=400, seconds=60)))


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_is_json_of_its_schema(app: App, temperature: float) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "topic", "schema": SCHEMA, "strict": True}}
    said = chat(app, response_format=wanted, n=6, seed=1, temperature=temperature, max_tokens=400, logprobs=True).json
    ended = [choice for choice in said["choices"] if choice["finish_reason"] == "stop"]
    assert ended, said["choices"][0]["message"]["content"]
    for choice in ended:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    # Log-probabilities stay the model's own: of a vocabulary of random weights no token is as good as certain.
    assert all(token["logprob"] < -1 for token in ended[0]["logprobs"]["content"])


def test_any_object_of_json_is_one(app: App) -> None:
    said = chat(app, response_format={"type": "json_object"}, n=8, seed=2, temperature=1.0, max_tokens=256).json
    texts = [choice["message"]["content"] for choice in said["choices"] if choice["finish_reason"] == "stop"]
    assert texts
    assert all(isinstance(json.loads(text), dict) for text in texts)
    assert all(choice["message"]["content"].lstrip()[:1] == "{" for choice in said["choices"])


def test_an_answer_is_one_of_some_texts_or_of_a_regular_expression(app: App) -> None:
    choices = complete(app, structured_outputs={"choice": ["yes", 'no "never"\n']}, n=8, seed=3, temperature=3).json
    assert {choice["text"] for choice in choices["choices"]} <= {"yes", 'no "never"\n'}
    assert {choice["finish_reason"] for choice in choices["choices"]} == {"stop"}
    dates = complete(app, structured_outputs={"regex": r"20[0-9]{2}-[01][0-9]"}, n=4, seed=4, temperature=3).json
    assert all(re.fullmatch(r"20\d\d-[01]\d", choice["text"]) for choice in dates["choices"])


def test_a_stream_says_the_same(app: App) -> None:
    form = {"choice": ["the first", "the second"]}
    whole = complete(app, structured_outputs=form, max_tokens=32).json["choices"][0]["text"]
    events = complete(app, structured_outputs=form, max_tokens=32, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events) == whole in form["choice"]


def test_who_asks_for_no_form_is_answered_as_if_alone() -> None:
    tokenizer, model = byte_level(template=CHAT), causal(max_position_embeddings=512)
    ids = tokenizer("ab")["input_ids"]
    free = Request(ids, stop=Stop(max_new_tokens=12))
    ends = frozenset({tokenizer.eos_token_id})
    grammar = Grammars(tokenizer, model.config.vocab_size).of(Form("regex", "[a-c]{5}"), ends)
    held = Request(ids, Sampling(temperature=1.0, seed=1), stop=Stop(ends, max_new_tokens=12), grammar=grammar)
    with Engine(model, tokenizer, Limits(rows=4, queue=8, tokens=512)) as engine:
        alone = answered(engine, [free])[free.number]
        again = Request(ids, stop=Stop(max_new_tokens=12))
        both = answered(engine, [again, held])
    ids_of = lambda deltas: [token.id for delta in deltas for token in delta.tokens]  # noqa: E731
    assert ids_of(both[again.number]) == ids_of(alone)
    assert re.fullmatch("[a-c]{5}", "".join(delta.text for delta in both[held.number]))
    assert both[held.number][-1].finish == "stop"


def test_an_answer_whose_form_breaks_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, model = byte_level(template=CHAT), causal(max_position_embeddings=512)
    ids, ends = tokenizer("ab")["input_ids"], frozenset({tokenizer.eos_token_id})
    grammar = Grammars(tokenizer, model.config.vocab_size).of(Form("regex", "[a-c]{5}"), ends)
    wrong = tokenizer("z")["input_ids"][-1]
    free, held = (
        Request(ids, stop=Stop(max_new_tokens=4)),
        Request(ids, stop=Stop(ends, max_new_tokens=12), grammar=grammar),
    )
    with Engine(model, tokenizer, Limits(rows=4, queue=8, tokens=512)) as engine:
        from tunelift.serving.sampling import Sampler

        monkeypatch.setattr(Sampler, "_drawn", lambda self, logits: wrong)
        said = answered(engine, [free, held])
        assert engine.pages.free + engine.pages.known == engine.pages.count
    assert (said[held.number][-1].finish, said[free.number][-1].finish) == ("error", "length")
    assert "form" in said[held.number][-1].reason


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("response_format", {"type": "xml"}, "none that is served"),
        ("response_format", {"type": "json_schema"}, "none that is served"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "ghost"}}}, "ghost"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "held to this form"),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": DEEP}}, "no JSON schema"),
        ("structured_outputs", {"regex": "("}, "held to this form"),
        ("structured_outputs", {"choice": []}, "none that is served"),
        ("structured_outputs", {"regex": "a", "choice": ["a"]}, "none that is served"),
        ("structured_outputs", "json", "none that is served"),
    ],
)
def test_a_form_that_cannot_be_kept_to_is_refused(app: App, field: str, value: Any, said: str) -> None:
    answer = chat(app, **{field: value})
    assert answer.status == 400
    assert said in answer.json["error"]["message"]


def test_a_form_that_takes_long_is_made_before_the_batch_waits_for_it() -> None:
    """Each step of a batch is for all of its answers: none of them waits for the grammar of one."""
    tokenizer = byte_level(template=CHAT)
    many = Form("choice", [f"option number {i}" for i in range(1500)])
    grammar = Grammars(tokenizer, None).of(many, frozenset({tokenizer.eos_token_id}))
    seconds = []
    for _ in range(3):
        began = perf_counter()
        matcher = grammar.matcher()
        matcher.mask(torch.zeros(len(tokenizer)))
        seconds.append(perf_counter() - began)
    began = perf_counter()
    Grammars(tokenizer, None).of(many, frozenset({tokenizer.eos_token_id}))
    assert min(seconds) < 0.2 * (perf_counter() - began)
    matcher.take(tokenizer("o", add_special_tokens=False)["input_ids"][0])
    again = torch.zeros(len(tokenizer))
    grammar.matcher().mask(again)
    assert int((again == 0).sum()) == 1, "the next answer begins where each does"


def test_a_short_form_that_grows_without_end_holds_nobody_up() -> None:
    tokenizer = byte_level(template=CHAT)
    grammar = Grammars(tokenizer, None).of(
        Form("regex", "((a{1000}){1000}){1000}"), frozenset({tokenizer.eos_token_id})
    )
    token = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    began, matcher = process_time(), grammar.matcher()
    with pytest.raises(FormError, match="held to its form"):
        for _ in range(64):
            matcher.mask(torch.zeros(len(tokenizer)))
            matcher.take(token)
    assert process_time() - began < 2


def test_two_forms_and_none() -> None:
    with pytest.raises(InputError, match="Both"):
        form_of({"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}})
    assert form_of({"response_format": {"type": "text"}}) is None
    assert form_of({}) is None


def test_what_is_missing_is_named(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no token that ends"):
        Grammars(byte_level(), 300).of(Form("regex", "a"), frozenset())
    monkeypatch.setitem(sys.modules, "llguidance", None)
    answer = chat(app, response_format={"type": "json_object"})
    assert answer.status == 400
    assert "tunelift[serve]" in answer.json["error"]["message"]
    assert call(app, "GET", "/health").status == 200
