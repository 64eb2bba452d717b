"""Tools: calls as a template writes them are read back, demanded ones are kept to, and others are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from test_serving_http import Said, call

from chat_families import tokenizer_of
from tiny_models import causal
from tunelift.core.errors import InputError
from tunelift.serving.app import App
from tunelift.serving.engine import Engine, Limits
from tunelift.serving.service import Allowed, Named, Service
from tunelift.serving.tools import Demand, Reading, Way
from tunelift.serving.worker import Worker

SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Bonn"]}}, "required": ["city"]}
SCHEMA |= {"additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tell it.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "strict": True}},
]
DEMAND = Demand({"weather": SCHEMA, "now": None})
USER = {"role": "user", "content": "the weather?"}
READ = ["qwen2.5", "qwen3", "llama-3.2", "gemma-4", "mistral-7b", "mistral-small-3.2", "granite-3.3", "lfm-2.5"]


def named(family: str) -> Named:
    tokenizer = tokenizer_of(family)
    return Named(family, None, tokenizer, causal(vocab_size=len(tokenizer)))


def written(family: str, opens: str, *arguments: dict[str, Any]) -> str:
    """Return what a family's template writes as an answer with calls of weather, from where the first opens."""
    functions = [{"name": "weather", "arguments": own} for own in arguments]
    calls = [{"id": "call00001", "type": "function", "function": own} for own in functions]
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    whole = str(tokenizer_of(family).apply_chat_template(messages, tools=TOOLS, tokenize=False))
    if not opens:
        return whole.rpartition("<|end_header_id|>")[2]
    behind = whole.index("the weather?")
    return whole[whole.index(opens, behind) :]


@pytest.mark.parametrize("family", READ)
def test_what_a_template_writes_is_read_back_piece_by_piece(family: str) -> None:
    way = named(family).way
    several = [{"city": 'Paris "nord" {'}, {"city": "Bönn", "days": [1, {"a": None}]}][: 1 + (way.between is not None)]
    ends = ["<|im_end|>", "<|eot_id|>", "<turn|>", "</s>", "<|end_of_text|>"]
    text = written(family, way.opens.strip(), *several)
    for end in ends:
        text = text.rstrip().removesuffix(end)
    reading, told = Reading(way, DEMAND, []), ""
    for piece in text:
        told += reading.add(piece)
    rest, calls = reading.end()
    assert told + rest == ""
    assert [(one.name, json.loads(one.arguments)) for one in calls] == [("weather", a) for a in several]
    assert len({one.id for one in calls}) == len(calls)


@pytest.mark.parametrize(("family", "why"), [("phi-3", "leaves out tools"), ("glm-4.5", "in a form that is not read")])
def test_a_template_without_tools_is_refused_with_the_reason(family: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        _ = named(family).way


def test_what_is_no_call_stays_text() -> None:
    way = named("qwen2.5").way
    good = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for text in (
        "no call", "<tool_call>", "<tool_call>\n{}", good.replace("now", "other"), good.replace("{}", "3"),
        good.replace("</tool_call>", "and more"), good.replace("{}", '{"a": NaN}'), '{"name": "now", "arguments": {}}',
    ):  # fmt: skip
        reading = Reading(way, DEMAND, [])
        told = "".join(map(reading.add, text))
        assert reading.end() == (text[len(told) :], [])
    content, calls = way.read(f"I look. {good}\n{good}", DEMAND)
    assert (content, len(calls)) == ("I look.", 2)
    assert len(way.read(f"I look. {good}\n{good}", Demand(DEMAND.functions, several=False))[1]) == 1
    text_of_json = good.replace("{}", '"{\\"a\\": 1}"')
    assert way.read(text_of_json, DEMAND)[1][0].arguments == '{"a": 1}'


def test_a_way_is_found_by_its_marks() -> None:
    with pytest.raises(InputError, match="not read here"):
        Way.of(lambda calls: "".join(f"<{one['function']['name']}>" for one in calls))


@pytest.fixture(scope="module", params=["qwen2.5", "mistral-7b"])
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    tokenizer = tokenizer_of(request.param)
    model = causal(vocab_size=len(tokenizer), max_position_embeddings=2048)
    with Worker(Engine(model, tokenizer, Limits(rows=8, queue=32, tokens=8192))) as worker:
        models = [Named("base", None, tokenizer, model)]
        plain = tokenizer_of("phi-3")
        models.append(Named("plain", None, plain, model))
        yield App(Service(worker, models, Allowed(seconds=60)))


def ask(app: App, **fields: Any) -> Said:
    body = {"messages": [USER], "tools": TOOLS, "max_tokens": 120, "temperature": 1.0, "seed": 1}
    return call(app, "POST", "/v1/chat/completions", body | fields)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=["any", "named"]
)
def test_a_demanded_call_comes_and_fits_its_schema(app: App, choice: Any) -> None:
    (whole,) = ask(app, tool_choice=choice, parallel_tool_calls=False).json["choices"]
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    (made,) = whole["message"]["tool_calls"]
    name, arguments = made["function"]["name"], json.loads(made["function"]["arguments"])
    assert name in ("weather", "now")[: 2 if choice == "required" else 1]
    assert name == "now" or arguments in ({"city": "Paris"}, {"city": "Bonn"})
    events = ask(app, tool_choice=choice, parallel_tool_calls=False, stream=True).events
    deltas = [event["choices"][0]["delta"] for event in events]
    ((told,),) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert (told["index"], told["function"]) == (0, made["function"])
    assert not "".join(delta.get("content") or "" for delta in deltas)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    # What the tool said is asked on.
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [made], "refusal": None}]
    messages.append({"role": "tool", "tool_call_id": made["id"], "content": "rain"})
    assert ask(app, messages=messages, max_tokens=3).json["usage"]["completion_tokens"] <= 3


def test_a_model_that_is_free_to_call_writes_what_it_would(app: App) -> None:
    free = ask(app, temperature=0, max_tokens=8).json
    assert free["usage"]["prompt_tokens"] > ask(app, temperature=0, max_tokens=8, tool_choice="none").json["usage"][
        "prompt_tokens"
    ]  # fmt: skip
    assert "tool_calls" not in free["choices"][0]["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 3}}]}, "tools[0]"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{"x": 1}]}]}, "messages[1]"),
        ({"messages": [USER, {"role": "user", "tool_calls": [{"x": 1}]}]}, "messages[1]"),
        ({"model": "plain"}, None),
    ],
)
def test_what_is_no_tool_is_refused(app: App, change: dict[str, Any], field: str | None) -> None:
    said = ask(app, **change)
    assert (said.status, said.json["error"]["param"]) == (400, field)
