"""Rows to examples: by settings, by usual column names, or a proposal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.columns import ANSWERS, CLASSES, Reading
from tunelift.data.examples import make_examples, unseen_labels
from tunelift.data.sources import read_rows

SHARED = Path(__file__).parents[2] / "../shared/data"


def examples(rows: list[dict[str, Any]], reading: Reading = ANSWERS, **settings: Any) -> list[Example]:
    return make_examples(read_rows(rows), DataSection(**settings), reading)[0]


def content(rows: list[dict[str, Any]], reading: Reading = ANSWERS, **settings: Any) -> list[tuple[str, str]]:
    return [example.content for example in examples(rows, reading, **settings)]


def test_templates() -> None:
    rows = [{"text": "lost card", "category": "card"}]
    assert content(rows, prompt="Message: {text}\nIntent:", completion=" {category}") == [
        ("Message: lost card\nIntent:", " card")
    ]
    assert content([{"prompt": "a", "answer": 3}], completion=" {answer}") == [("a", " 3")]


def test_usual_columns() -> None:
    assert content([{"prompt": "a", "completion": "b", "other": "c"}]) == [("a", "b")]
    assert content([{"text": "a", "label": 1}]) == [("a\nLabel:", " 1")]
    assert content([{"id": "x", "text": "a"}]) == [("", "a")]
    assert content([{"text": "a", "other": "b"}], text="text") == [("", "a")]
    assert content([{"q": "a", "l": "b"}], text="{q}?", label="l") == [("a?\nLabel:", " b")]
    instructions = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "a", "input": "", "output": "c"}]
    assert content(instructions) == [
        ("### Instruction:\na\n\n### Input:\nb\n\n### Response:\n", "c"),
        ("### Instruction:\na\n\n### Response:\n", "c"),
    ]


def test_classification_takes_the_text_as_it_is_and_the_bare_label() -> None:
    assert content([{"text": "a", "label": 0}], CLASSES) == [("a", "0")]
    assert content([{"q": "a", "l": "b"}], CLASSES, text="q", label="l") == [("a", "b")]
    templates = {"prompt": "Q: {q}", "completion": " {l}"}
    assert content([{"q": "a", "l": "b"}], CLASSES, **templates) == [("Q: a", "b")]


def test_messages_and_conversations() -> None:
    turns = [("system", "s"), ("human", "a"), ("gpt", "b")]
    for rows in (
        [
            {
                "messages": [
                    {"role": role, "content": text}
                    for role, text in (("system", "s"), ("user", "a"), ("assistant", "b"))
                ]
            }
        ],
        [{"conversations": [{"from": role, "value": text} for role, text in turns]}],
    ):
        (example,) = examples(rows)
        assert example.messages is not None
        assert [tuple(message.values()) for message in example.messages] == [
            ("system", "s"),
            ("user", "a"),
            ("assistant", "b"),
        ]
        assert example.content == ("system: s\nuser: a", "b")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("text", "a list of messages is expected, not str"),
        ([], "not nothing"),
        ([{"role": "user", "content": "a"}], "the last message is the user's"),
        ([{"role": "tool", "content": "a"}], "the last message is the tool's"),
        ([{"role": "robot", "content": "a"}], "the role 'robot' is unknown"),
        ([{"role": ["user"], "content": "a"}], r"the role \['user'\] is unknown"),
        ([{"role": "assistant", "content": "a\ud83d"}], "message 1 holds half of a character"),
        ([{"content": "a"}], "there is no role"),
        ([{"role": "assistant", "content": [{"type": "image"}]}], "the content is list, not text"),
        ([{"role": "assistant", "content": "a", "tool_calls": [1]}], "message 1: a call that has no name"),
        ([{"role": "assistant", "content": "a", "mask": 1}], '"mask", which training here would ignore'),
        (["a"], "message 1: an object is expected, not str"),
    ],
)
def test_bad_conversations(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        examples([{"messages": messages}])
    assert 'row 1, column "messages"' in str(error.value)


def test_empty_rows_are_left_out_and_counted_by_reason() -> None:
    rows = [
        {"text": "a", "label": "b"},
        {"text": " ", "label": "b"},
        {"text": None, "label": "b"},
        {"text": "a", "label": ""},
    ]
    kept, empty = make_examples(read_rows(rows), DataSection(), ANSWERS)
    assert [example.id for example in kept] == ["1"]
    assert empty == {"empty prompt": 2, "empty completion": 1}


def test_ids_and_clusters() -> None:
    rows = [{"id": "7", "text": "a", "label": "x", "who": "p"}, {"id": "8", "text": "b", "label": "x", "who": None}]
    assert [e.id for e in examples(rows)] == ["7", "8"]
    assert [e.cluster for e in examples(rows)] == [None, None]
    assert [e.cluster for e in examples(rows, group="who")] == ["p", "row 8"]
    same = [{**row, "id": "7"} for row in rows]
    assert [e.id for e in examples(same)] == ["1", "2"]
    with pytest.raises(InputError, match='row 2: the id "7" stands at the data given, row 1 too'):
        examples(same, id="id")
    with pytest.raises(InputError, match='row 2: the id column "who" is empty'):
        examples(rows, id="who")


def test_every_missing_column_is_reported_at_once() -> None:
    with pytest.raises(InputError) as error:
        examples([{"text": "a", "category": "b"}], prompt="{txt}", completion=" {categry}")
    assert len(error.value.problems) == 2
    assert 'Did you mean "category"?' in error.value.problems[1]
    with pytest.raises(InputError) as error:
        examples([{"text": "a", "label": "b"}], id="no", group="none")
    assert len(error.value.problems) == 2
    with pytest.raises(InputError, match=r"data.completion is not set"):
        examples([{"text": "a", "category": "b"}], prompt="{text}")


def test_a_table_of_other_columns_gets_a_proposal() -> None:
    rows = [{"sentence": f"a long text number {i}", "kind_of": "xy"[i % 2], "n": i} for i in range(9)]
    with pytest.raises(InputError, match="the columns sentence, kind_of, n") as error:
        examples(rows)
    assert '--prompt "{sentence}\\nKind of:" --completion " {kind_of}"' in str(error.value.fix)
    with pytest.raises(InputError) as error:
        examples(rows, CLASSES)
    assert '--text "sentence" --label "kind_of"' in str(error.value.fix)
    with pytest.raises(InputError) as error:
        examples([{"sentence": "a"}])
    assert '--text "sentence"' in str(error.value.fix)
    with pytest.raises(InputError, match=r"Set data\.prompt"):
        examples([{"tokens": ["a"]}])


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside the project")
@pytest.mark.parametrize(
    ("file", "fix"),
    [
        ("banking77_train.csv", '--prompt "{text}\\nCategory:" --completion " {category}"'),
        ("gsm8k_train.jsonl", '--prompt "{question}\\nAnswer:" --completion " {answer}"'),
        ("sst2_dev.tsv", "--columns label,text"),
    ],
)
def test_proposals_for_real_data(file: str, fix: str) -> None:
    with pytest.raises(InputError) as error:
        make_examples(read_rows(SHARED / file), DataSection(), ANSWERS)
    assert str(error.value.fix).endswith(fix)


def test_unseen_labels() -> None:
    train, test = (examples([{"text": "t", "label": label} for label in labels]) for labels in ("ab", "abdc"))
    assert unseen_labels(train, test) == [" c", " d"]
