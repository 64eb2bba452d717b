"""Pairs of answers and judged answers, as people keep them, become examples or a clear error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example, Liked, Rejected
from tunelift.data.columns import ANSWERS, notes_on_columns
from tunelift.data.examples import make_examples
from tunelift.data.preferences import EARLIER, EMPTY, EQUAL, PREFERENCES, UNANSWERED
from tunelift.data.sources import read_rows
from tunelift.data.splits import load_splits

SHARED = Path(__file__).parents[3] / "shared" / "data"
ASKED = [{"role": "user", "content": "Hi?"}]
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "Go."}


def made(rows: Any, **settings: Any) -> tuple[list[Example], Counter[str]]:
    return make_examples(read_rows(rows), DataSection(**settings), PREFERENCES)


def pair(row: dict[str, Any], **settings: Any) -> tuple[str, str, str]:
    (example,), _ = made([row], **settings)
    assert isinstance(example.wanted, Rejected)
    return example.prompt, example.completion, example.wanted.text


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {}),
        ({"question": "q", "chosen_response": "a", "rejected_response": "b"}, {}),
        ({"x": "q", "y": "a", "z": "b"}, {"prompt": "{x}", "completion": "{y}", "rejected": "{z}"}),
        ({"prompt": "q", "best": "a", "rejected": "b"}, {"completion": "{best}"}),
        ({"prompt": "q", "chosen": "a", "worst": "b"}, {"rejected": "{worst}"}),
    ],
)
def test_pairs_of_texts(row: dict[str, Any], settings: dict[str, str]) -> None:
    assert pair(row, **settings) == ("q", "a", "b")


def test_instructions_have_their_headings() -> None:
    row = {"instruction": "q", "input": "more", "chosen": "a", "rejected": "b", "system": "Be kind."}
    prompt, *answers = pair(row)
    assert prompt == "Be kind.\n\n### Instruction:\nq\n\n### Input:\nmore\n\n### Response:\n"
    assert answers == ["a", "b"]
    assert notes_on_columns(read_rows([row]), DataSection(), PREFERENCES) == []


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("\n\nHuman: hi\n\nAssistant: The cat", "\n\nHuman: hi\n\nAssistant: The dog", "\n\nHuman: hi\n\nAssistant:"),
        ("one two three", "one two thirty", "one two"),
        ("one two\n\nthree", "one two\n\nfour", "one two"),
        ("yes", "no", ""),
        ("é ü x", "é ü y", "é ü"),
    ],
)
def test_without_a_prompt_it_is_what_both_begin_with(chosen: str, rejected: str, prompt: str) -> None:
    found = pair({"chosen": chosen, "rejected": rejected})
    assert found == (prompt, chosen[len(prompt) :], rejected[len(prompt) :])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
        {"messages": ASKED, "chosen": GOOD, "rejected": BAD},
        {"messages": ASKED, "chosen": "Hello!", "rejected": "Go."},
        {"prompt": "Hi?", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"prompt": "Hi?", "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {
            "conversations": [{"from": "human", "value": "Hi?"}],
            "chosen": {"from": "gpt", "value": "Hello!"},
            "rejected": {"from": "gpt", "value": "Go."},
        },
        {
            "conversations": '[{"from": "human", "value": "Hi?"}]',
            "chosen": '{"from": "gpt", "value": "Hello!"}',
            "rejected": '{"from": "gpt", "value": "Go."}',
        },
    ],
)
def test_conversations_in_any_layout_are_one(row: dict[str, Any]) -> None:
    (example,), _ = made([row], turns="all")
    assert example.conversation is not None
    assert example.messages == (*ASKED, GOOD)
    assert example.conversation.turns == "last", "what was said before is no part of the preference"
    assert example.wanted is not None
    assert isinstance(example.wanted, Rejected)
    assert example.wanted.given is not None
    assert example.wanted.given.messages == (*ASKED, BAD)
    assert (example.prompt, example.completion, example.wanted.text) == ("user: Hi?", "Hello!", "Go.")


def test_a_system_text_and_tools_stand_in_both() -> None:
    tool = {"name": "f", "parameters": {}}
    row = {"messages": ASKED, "chosen": GOOD, "rejected": BAD, "system": "Be kind.", "tools": [tool]}
    (example,), _ = made([row])
    assert isinstance(example.wanted, Rejected)
    for one in (example.conversation, example.wanted.given):
        assert one is not None
        assert one.messages[0]["content"] == "Be kind."
        assert one.tools is not None


@pytest.mark.parametrize(
    ("asked", "beside"),
    [
        ("question", {"system": "Be kind."}),
        ("prompt", {"history": [["Hi?", "Ho."]]}),
        ("prompt", {"system_prompt": "Be kind."}),
        ("prompt", {"functions": "[{}]"}),
        ("instruction", {"tools": "[{}]"}),
        ("instruction", {"system_prompt": "Be kind."}),
    ],
)
def test_what_belongs_to_a_conversation_is_not_lost_beside_texts(asked: str, beside: dict[str, Any]) -> None:
    """The system texts of a well-known set of pairs (system, question, chosen, rejected) were left out in silence."""
    row = {asked: "q", "chosen": "a", "rejected": "b"}
    (name,) = beside
    with pytest.raises(InputError, match=name) as caught:
        made([row, row | beside])
    assert caught.value.fix
    assert len(made([row | {name: ""}, row | {name: None}])[0]) == 2, "empty cells say nothing"
    named = {"prompt": f"{{{name}}} {{{asked}}}", "completion": "{chosen}", "rejected": "{rejected}"}
    if isinstance(beside[name], str):
        assert pair(row | beside, **named)[0] == f"{beside[name]} q"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": " a "}, EQUAL),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, EMPTY),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, EMPTY),
        ({"messages": ASKED, "chosen": GOOD, "rejected": GOOD}, EQUAL),
        ({"messages": ASKED, "chosen": [], "rejected": BAD}, EMPTY),
        ({"chosen": [*ASKED, GOOD], "rejected": [{"role": "user", "content": "Ho?"}, BAD]}, EARLIER),
        ({"chosen": [*ASKED, GOOD], "rejected": ASKED}, UNANSWERED),
        ({"chosen": "one two ", "rejected": "one two more"}, EMPTY),
    ],
)
def test_pairs_that_say_nothing_are_left_out_and_counted(row: dict[str, Any], reason: str) -> None:
    found, empty = made([row])
    assert (found, dict(empty)) == ([], {reason: 1})


@pytest.mark.parametrize("value", [True, 1, "true", "1", 1.0])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize(
    "row", [{"messages": [*ASKED, GOOD]}, {"prompt": "a", "completion": "b"}, {"instruction": "a", "output": "b"}]
)
def test_answers_with_a_judgement(row: dict[str, Any], name: str, value: Any) -> None:
    found, empty = made([row | {name: value}, row | {name: False}, row | {name: None}])
    assert [example.wanted for example in found] == [Liked(True), Liked(False)]
    assert dict(empty) == {"no judgement": 1}
    other, _ = made([row | {"good": "1"}], label="good")
    assert other[0].wanted == Liked(True)


@pytest.mark.parametrize(
    ("rows", "settings", "problem", "fix"),
    [
        ([{"a": "x", "b": "y"}], {}, "has no answers to compare", "--rejected"),
        ([{"prompt": "q", "completion": "c", "label": "maybe"}], {}, "'maybe' does not say", "true or false"),
        ([{"prompt": "q", "completion": "c"}], {"label": "good"}, "does not have", "Correct"),
        ([{"prompt": "q", "chosen": "c", "rejected": "r"}], {"rejected": "{no}"}, "no", ""),
        ([{"prompt": "q", "chosen": "c", "rejected": "r"}], {"text": "prompt"}, "for a head", "--rejected"),
        ([{"messages": ASKED, "chosen": 3, "rejected": BAD}], {}, 'column "chosen"', "Answers are"),
        ([{"messages": [{"role": "nobody", "content": "x"}], "chosen": GOOD, "rejected": BAD}], {}, "nobody", "roles"),
    ],
)
def test_what_cannot_be_used_is_named(rows: Any, settings: dict[str, str], problem: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        made(rows, **settings)
    assert problem in " ".join(caught.value.problems)
    assert fix in (caught.value.fix or "")


def test_a_rejected_answer_is_named_for_no_other_task() -> None:
    with pytest.raises(InputError, match=r"data\.rejected is for the task preference alone"):
        make_examples(read_rows([{"prompt": "q", "completion": "a"}]), DataSection(rejected="{prompt}"), ANSWERS)


def test_pairs_that_differ_in_the_rejected_answer_alone_are_two() -> None:
    rows = [{"prompt": f"q{i % 10} about the thing", "chosen": "a", "rejected": f"b{i // 10}"} for i in range(20)]
    section = DataSection(train=[*rows, rows[0]], validation=0.1)
    report = load_splits(section, reading=PREFERENCES, roles=("train",)).report
    assert report.splits["train"].duplicates == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data files lie in shared/data beside the project")
def test_real_files() -> None:
    pairs, empty = made(SHARED / "preference_demo.json")
    assert len(pairs) + sum(empty.values()) == 300
    assert len(pairs) > 290
    assert all(isinstance(e.wanted, Rejected) and e.wanted.text != e.completion for e in pairs)
    judged, empty = made(SHARED / "kto_demo.json")
    assert Counter(e.wanted.liked for e in judged if isinstance(e.wanted, Liked)) == {True: 150, False: 150}
    assert not empty
