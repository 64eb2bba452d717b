"""Messages and what stands beside them: used, obeyed or refused by name, and nothing dropped without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_families import TOOL, assistant, system, tokenizer_of, user
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.conversations import as_answer, as_prompt, conversation_of, is_learned
from tunelift.data.messages import FLAGS, REASONING
from tunelift.data.render import Renderer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside the project")
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


def last(*messages: Any) -> dict[str, Any]:
    return dict(conversation_of([user("q"), *messages], "row 1").messages[-1])


@pytest.mark.parametrize("flag", FLAGS)
def test_a_message_that_says_so_is_not_learned(flag: str) -> None:
    answers = [assistant("a", **{flag: 0}), user("r"), assistant("b", **{flag: True})]
    messages = conversation_of([user("q"), *answers], "row 1").messages
    assert [is_learned(message) for message in messages] == [False, False, False, True]
    assert conversation_of([user("q", **{flag: False}), assistant("a")], "row 1").messages == (
        user("q"),
        assistant("a"),
    )
    (kept,) = conversation_of([assistant("a"), assistant("b", **{flag: False})], "row 1").messages
    assert kept == assistant("a")
    assert not is_learned(conversation_of([assistant("b", **{flag: False})], "row 1").messages[-1])


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "gemma-4", "llama-3.2"])
def test_an_answer_that_opens_a_conversation_or_says_nothing_is_context(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), 2048)
    messages = [assistant("welcome"), user("q"), assistant("a"), user("r"), assistant(" "), user("s"), assistant("b")]
    conversation = conversation_of(messages, "row 1")
    (row, *more), report = renderer.render_rows([Example("1", "q", "b", conversation)])
    learned = [
        "".join(renderer.tokenizer.decode([i]) for i, counted in zip(t.ids, t.in_loss, strict=True) if counted)
        for t in (row, *more)
    ]
    assert "welcome" not in "".join(learned)
    ends = [renderer.tokenizer.decode(renderer.stop_ids(Example("1", "q", "b", conversation))[-1:])]
    assert "".join(learned).count(ends[0]) == 2
    assert set(report.notes) >= {
        "answers that open a conversation, with nothing before them, are not learned",
        "answers that say nothing are not learned",
    }
    with pytest.raises(InputError, match="Row 1: nothing stands before the assistant's answer"):
        renderer.render_rows([Example("1", "", "a", conversation_of([assistant("a")], "row 1"))])


@pytest.mark.parametrize("key", REASONING)
def test_reasoning_is_one_thing_by_whatever_name(key: str) -> None:
    assert last(assistant("a", **{key: "hm"})) == assistant("a", reasoning_content="hm")
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    assert last({"role": "assistant", "content": parts}) == assistant("a", reasoning_content="hm")


@pytest.mark.parametrize(
    "message",
    [
        assistant("", tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1}'}}]),
        assistant("", tool_calls=[{"name": "f", "arguments": {"a": 1}}]),
        {"role": "assistant", "content": None, "tool_calls": json.dumps([{"name": "f", "arguments": {"a": 1}}])},
        {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
        {"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "f", "arguments": {"a": 1}}'}]},
    ],
)
def test_a_call_is_one_thing_however_it_is_written(message: dict[str, Any]) -> None:
    assert last(message) == assistant("", tool_calls=[CALL])
    assert as_answer(last(message)) == '{"arguments": {"a": 1}, "name": "f"}'


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (assistant("a", train=0.5), "train: 0.5"),
        (assistant("a", weight=2), "weight: 2"),
        (assistant("a", loss="no"), "loss: 'no'"),
        (assistant("a", train=True, weight=0), "train: True, weight: 0"),
        (user("a", train=True), "asks that a message of the user's be learned"),
        (assistant("a", trian=False), 'holds "trian", which training here would ignore. Did you mean "train"'),
        (assistant("a", images=["x.png"]), 'holds "images"'),
        (assistant("a", reasoning="x", thinking="y"), "hold different reasoning"),
        (assistant("a", reasoning=["x"]), "reasoning holds no text"),
        (user("a", reasoning="x"), '"reasoning_content" is given for the role "user"'),
        (user("a", tool_calls=[CALL]), '"tool_calls" is given for the role "user"'),
        (assistant("a", name="Bob"), '"name" is given for the role "assistant"'),
        (assistant("a", tool_calls={"name": "f"}), "the calls are dict, not a list"),
        (assistant("a", tool_calls=[{"name": "f", "arguments": "[1]"}]), "a call that has no name, or whose arguments"),
        (assistant("a", tool_calls=[{"name": "f", "arguments": "{"}]), "message 2, a tool call: not valid JSON"),
        ({"from": "function_call", "value": "f()"}, "message 2, a tool call: not valid JSON"),
        (assistant("a", tool_calls=[{"name": "\ud83d"}]), "half of a character"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "it has a part of type 'image_url'"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "holds int, not text"),
        ({"role": "user"}, "the content is nothing, not text"),
        (user("a", **{"from": "gpt"}), '"role" and "from" say different things'),
        (user("a", value="b"), '"content" and "value" say different things'),
    ],
)
def test_what_has_a_meaning_that_is_not_supported_is_refused(message: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as error:
        conversation_of([user("q"), message, assistant("b")], "rows.jsonl, line 4")
    assert "rows.jsonl, line 4, message 2" in str(error.value)
    assert problem in str(error.value)
    assert error.value.fix


def test_what_stands_beside_messages_becomes_part_of_the_conversation() -> None:
    found = conversation_of(
        [user("q"), assistant("a")],
        "row 1",
        system="be brief",
        history=[["p", "o"]],
        tools=json.dumps([TOOL]),
        template_arguments='{"enable_thinking": false, "other": null}',
    )
    assert [m["content"] for m in found.messages] == ["be brief", "p", "o", "q", "a"]
    assert found.tools == ({"type": "function", "function": TOOL},)
    assert found.template_arguments == {"enable_thinking": False}
    assert as_prompt(found).splitlines()[1:] == [
        "enable_thinking: false",
        "system: be brief",
        "user: p",
        "assistant: o",
        "user: q",
    ]
    nothing = {"system": " ", "history": [], "tools": "", "template_arguments": {}}
    assert conversation_of([user("q"), assistant("a")], "row 1", **nothing) == conversation_of(
        [user("q"), assistant("a")], ""
    )
    same = conversation_of([system("s"), user("q"), assistant("a")], "row 1", system="s", history=[["p", "o"]])
    assert [m["content"] for m in same.messages] == ["s", "p", "o", "q", "a"]


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        ({"system": 3}, "the system text is int, not text"),
        ({"system": "other"}, "a system text is given twice"),
        ({"history": [["q"]]}, "the history is no list of pairs"),
        ({"history": "q"}, "the history: not valid JSON"),
        ({"history": [["q", 1]]}, "the history: the content is int, not text"),
        ({"tools": [{"x": 1}]}, "tool 1: there is no function with a name"),
        ({"tools": 3}, "the tools are int, not a list"),
        ({"tools": "[{]"}, "the tools: not valid JSON"),
        ({"template_arguments": ["x"]}, "the template's arguments are list, not an object"),
        ({"template_arguments": {"messages": []}}, "takes no argument 'messages' from a row"),
        ({"template_arguments": {"a b": 1}}, "takes no argument 'a b' from a row"),
    ],
)
def test_what_stands_beside_messages_is_refused_by_name(beside: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as error:
        conversation_of([system("s"), user("q"), assistant("a")], "row 1", **beside)
    assert "row 1" in str(error.value)
    assert problem in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYED = st.dictionaries(
    st.sampled_from(["role", "from", "content", "value", "tool_calls", "function_call", *FLAGS, *REASONING, "x"]),
    JSON | st.sampled_from(["user", "assistant", "function_call", "tool"]),
    max_size=5,
)


@given(st.lists(KEYED | JSON, max_size=3), JSON, JSON, JSON, JSON)
@settings(max_examples=150, deadline=None)
def test_any_values_are_a_conversation_or_a_clear_error(messages: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    try:
        found = conversation_of(messages, "row 1", system=a, history=b, tools=c, template_arguments=d)
    except InputError as error:
        assert "row 1" in str(error)
    else:
        assert found.messages[-1]["role"] == "assistant"
        assert isinstance(as_prompt(found) + as_answer(found.messages[-1]), str)


@needs_shared
@pytest.mark.parametrize("name", ["qwen3", "gpt-oss", "glm-4.5", "mistral-small-3.2"])
def test_real_conversations_with_tools_and_reasoning(name: str) -> None:
    tools = json.loads((SHARED / "toolcall_demo.json").read_text(encoding="utf-8"))[:60]
    lines = (SHARED / "reason_tool_use.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [(row["conversations"], row["tools"]) for row in tools]
    rows += [(row["messages"], row["tools"]) for row in map(json.loads, lines)]
    renderer, said = Renderer(tokenizer_of(name), 100_000), 0
    for number, (messages, given_tools) in enumerate(rows):
        found = conversation_of(messages, f"row {number}", tools=given_tools)
        try:
            kept, _ = renderer.render_rows([Example(str(number), "", "", found)])
        except InputError as error:
            assert (name, "leaves out the call" in str(error)) == ("gpt-oss", True)  # it writes one call a turn
            continue
        text = "".join(renderer.tokenizer.decode([t for t, c in zip(r.ids, r.in_loss, strict=True) if c]) for r in kept)
        answers = [message for message in found.messages if is_learned(message)]
        assert all("".join(a["content"].split()) in "".join(text.split()) for a in answers)
        assert all(call["function"]["name"] in text for a in answers for call in a.get("tool_calls", ()))
        said += len(answers)
    assert said > 250
