"""Chat templates of many families: the loss is on what the assistant says and no other token, or the row is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import chat_families
from chat_families import CALL, CASES, FAMILIES, SPELT, TOOL, assistant, example_of, learned, system, tokenizer_of, user
from tiny_tokenizers import byte_level
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.conversations import conversation_of, is_learned
from tunelift.data.dates import dated
from tunelift.data.render import Renderer

REFUSED = {
    "later system": {"qwen3.5", "gpt-oss", "gemma-3", "mistral-7b", "mistral-nemo", "cohere-2", "smollm3", "vicuna"},
    "system": {"mistral-nemo"},
    "reasoning": {
        *("qwen2.5", "phi-3", "deepseek-v3.2", "deepseek-r1", "llama-3.2", "gemma-3", "gemma-4", "mistral-7b"),
        *("mistral-nemo", "cohere-2", "smollm3", "granite-3.3", "lfm-2.5", "vicuna"),
    },
    "reasoning inline": {"deepseek-v3.2", "deepseek-r1"},
    "earlier reasoning": {"deepseek-v3.2", "deepseek-r1"},
    "two questions": {"gemma-3", "mistral-7b", "mistral-nemo", "cohere-2"},
    "question last": set(FAMILIES),
}
"""Families whose template has no place for what these rows say."""
NO_TOOLS = {"phi-3", "deepseek-v3.2", "deepseek-r1", "gemma-3", "mistral-nemo", "cohere-2", "smollm3", "vicuna"}
TAKE_ENABLE_THINKING = {"qwen3", "qwen3.5", "glm-4.5", "nemotron-3", "gemma-4", "smollm3"}


def refused(name: str, title: str) -> bool:
    family = name.partition(",")[0]
    if title in ("tools", "a call"):
        return family in NO_TOOLS
    if title == "no thinking":
        return family not in TAKE_ENABLE_THINKING
    return name in REFUSED.get(title, ()) or family in REFUSED.get(title, ())


def bare(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("title", CASES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_learned_right_or_refused_with_its_name(name: str, title: str) -> None:
    renderer = Renderer(tokenizer_of(name), 2048)
    if refused(name, title):
        with pytest.raises(InputError, match=r"[Rr]ow 7"):
            renderer.render_rows([example_of(CASES[title])])
        return
    example = example_of(CASES[title])
    messages = example.messages or ()
    rows, _ = renderer.render_rows([example])
    answers = [message for message in messages if is_learned(message)]
    runs = [run for row in rows for run in learned(renderer, row)]
    assert len(runs) == len(answers)
    for run, answer in zip(runs, answers, strict=True):
        said = [*re.split("</?think>", answer["content"]), answer.get("reasoning_content", "")]
        said += [call["function"]["name"] for call in answer.get("tool_calls", ())]
        assert all(bare(text) in bare(run) for text in said)
        assert not any(
            bare(m["content"]) in bare(run)
            for m in messages
            if m["role"] in ("user", "system") and title != "special tokens"
        )
    for row in rows:
        assert row.in_loss[-1]
        assert row.ids[-1] in renderer.special_ids or name == "vicuna, no EOS"
        assert (
            sum(token in renderer.special_ids for token, counts in zip(row.ids, row.in_loss, strict=True) if counts)
            <= 9
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_trained_is_what_is_asked_and_scored(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), 2048)
    for title, case in CASES.items():
        if refused(name, title):
            continue
        example = example_of(case)
        (asked,) = renderer.asked([example])
        prompt, completion = renderer.prompt_ids(example), renderer.completion_ids(example)
        (row,) = renderer.render_rows([renderer.parts(example)[-1]])[0]
        assert row.ids == [*prompt, *completion]
        assert prompt[: len(asked.ids)] == asked.ids
        assert row.in_loss[len(asked.ids) :] == [True] * (len(row.ids) - len(asked.ids))
        assert not row.in_loss[len(asked.ids) - 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_special_tokens_in_what_is_said_are_text(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), 2048)
    plain, spelt = ({"messages": [user(text), assistant(text)]} for text in ("a text", SPELT))
    (one,), (other,) = (renderer.render_rows([example_of(case)])[0] for case in (plain, spelt))
    controls = [[token for token in row.ids if token in renderer.special_ids] for row in (one, other)]
    assert controls[0] == controls[1]
    assert SPELT in renderer.tokenizer.decode(other.ids)
    assert "1 rows spell a special token" in " ".join(renderer.render_rows([example_of(spelt)])[1].lines())


@pytest.mark.parametrize("name", ["gpt-oss", "llama-3.2", "mistral-small-3.2", "smollm3", "granite-3.3"])
def test_the_date_is_the_runs(name: str) -> None:
    example = example_of(CASES["one turn"])
    with dated(datetime(1999, 12, 31)):
        before = Renderer(tokenizer_of(name), 2048).tokens(example)
    with dated(datetime(2000, 1, 1)):
        after = Renderer(tokenizer_of(name), 2048).tokens(example)
    texts = [tokenizer_of(name).decode(row.ids) for row in (before, after)]
    assert [re.search("1999|2000", text)[0] for text in texts] == ["1999", "2000"]  # type: ignore[index]


@pytest.mark.parametrize("turns", ["each", "last"])
@pytest.mark.parametrize("name", FAMILIES)
def test_turns_are_learned_one_by_one_or_the_last_alone(name: str, turns: Any) -> None:
    renderer = Renderer(tokenizer_of(name), 2048)
    conversation = conversation_of(CASES["several"]["messages"], "row 7")
    example = Example("7", "", "", replace(conversation, turns=turns))
    rows, _ = renderer.render_rows([example])
    runs = [learned(renderer, row) for row in rows]
    assert [len(run) for run in runs] == ([1, 1] if turns == "each" else [1])
    assert "the mat" in runs[-1][0]
    for number, row in enumerate(rows):  # each as the model sees it at that moment
        upto = conversation.messages[: 2 * number + 2] if turns == "each" else conversation.messages
        alone = Example("7", "", "", replace(conversation, messages=upto))
        assert row.ids == [*renderer.prompt_ids(alone), *renderer.completion_ids(alone)]


def test_all_turns_of_one_rendering_where_earlier_turns_stay_as_they_were() -> None:
    exact = {
        name for name in FAMILIES
        if len(Renderer(tokenizer_of(name), 2048).render_rows([example_of(CASES["several"])])[0]) == 1
    }  # fmt: skip
    assert set(FAMILIES) - exact == {"qwen3", "qwen3.5", "gpt-oss"}
    system_in_last_question = example_of({"messages": [system("s"), *CASES["several"]["messages"]]})
    assert len(Renderer(tokenizer_of("mistral-7b"), 2048).render_rows([system_in_last_question])[0]) == 2


def test_every_row_is_looked_at_and_the_one_that_is_cut_is_named() -> None:
    good = [example_of({"messages": [user(f"what {n}?"), assistant(f"cat {n}")]}, str(n)) for n in range(40)]
    bad = example_of(
        {"messages": [user("a much longer question than all of the others"), assistant("<think>hm</think>x")]}, "39b"
    )
    renderer = Renderer(tokenizer_of("deepseek-r1"), 2048)
    with pytest.raises(
        InputError, match="Row 39b, message 2: the model's chat template leaves out the assistant's reasoning"
    ):
        renderer.render_rows([*good, bad])
    mended = "{{ m.role }}: {{ m.content | replace('teh', 'the') }}</s>"
    prompt = "{% if add_generation_prompt %}assistant: {% endif %}"
    upper = byte_level(template="{% for m in messages %}" + mended + "{% endfor %}" + prompt)
    rewritten = example_of({"messages": [user("what?"), assistant("teh cat")]}, "12")
    with pytest.raises(InputError, match=r"Row 12, message 2: .*rewrites what the assistant says.*'the cat"):
        Renderer(upper, 99).render_rows([*good, rewritten])


def test_a_template_that_ends_turns_with_text_stops_at_what_comes_before_the_next_question() -> None:
    example = example_of(CASES["one turn"])
    without, with_eos = (Renderer(tokenizer_of(name), 99) for name in ("vicuna, no EOS", "vicuna"))
    assert (without.stop_ids(example), without.stop_strings(example)) == ([], ["\nUSER: "])
    assert (with_eos.stop_ids(example), with_eos.stop_strings(example)) == (with_eos.end, [])


def test_tools_reach_the_template_whole_or_are_refused() -> None:
    asked = {"messages": [user("the weather?"), assistant("it is blue")], "tools": [TOOL, TOOL | {"name": "whether"}]}
    text = tokenizer_of("qwen2.5").decode(Renderer(tokenizer_of("qwen2.5"), 2048).tokens(example_of(asked)).ids)
    assert all(f'"name": "{name}"' in text for name in ("weather", "whether"))
    with pytest.raises(InputError, match=r"Row 7: .*leaves out tools: weather, whether"):
        Renderer(tokenizer_of("gemma-3"), 2048).tokens(example_of(asked))
    two = {"messages": [user("the weather?"), assistant("", tool_calls=[CALL, CALL])], "tools": [TOOL]}
    with pytest.raises(InputError, match="only supports single tool-calls"):
        Renderer(tokenizer_of("llama-3.2"), 2048).tokens(example_of(two))
    with pytest.raises(InputError, match=r"Row 7, message 2: .*leaves out the call of 'whether'"):
        other = CALL | {"function": {"name": "whether", "arguments": {"if": "so"}}}
        Renderer(tokenizer_of("gpt-oss"), 2048).tokens(
            example_of(two | {"messages": [user("?"), assistant("", tool_calls=[CALL, other])]})
        )


def test_the_page_is_what_the_templates_do() -> None:
    page = Path(__file__).parents[2] / "docs" / "templates.md"
    assert page.read_text(encoding="utf-8") == chat_families.table()
