"""Columns beside the question and the answer: a part of the row, a reason to refuse it, or named as unused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.columns import ANSWERS, CLASSES, Reading, notes_on_columns
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows
from tunelift.data.splits import load_splits

SHARED = Path(__file__).parents[2] / "../shared/data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside the project")

ASKED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TOOL = {"name": "find", "description": "finds", "parameters": {"type": "object", "properties": {}}}


def examples(source: Any, reading: Reading = ANSWERS, **settings: Any) -> list[Example]:
    section = DataSection(**settings)
    return make_examples(read_rows(source, columns=section.columns), section, reading)[0]


def refused(source: Any, reading: Reading = ANSWERS, **settings: Any) -> tuple[str, str]:
    """Return the problem and what to do, of rows that must be refused."""
    with pytest.raises(InputError) as error:
        examples(source, reading, **settings)
    return "\n".join(error.value.problems), str(error.value.fix)


def notes(source: Any, **settings: Any) -> list[str]:
    return notes_on_columns(read_rows(source), DataSection(**settings), ANSWERS)


def test_what_belongs_to_a_conversation_is_part_of_it() -> None:
    row = {
        "messages": ASKED,
        "system": "Be brief.",
        "history": [["c", "d"]],
        "tools": json.dumps([TOOL]),
        "chat_template_kwargs": {"enable_thinking": False},
    }
    (example,) = examples([row])
    assert example.conversation is not None
    assert [message["content"] for message in example.conversation.messages] == ["Be brief.", "c", "d", "a", "b"]
    assert example.conversation.tools == ({"type": "function", "function": TOOL},)
    assert example.conversation.template_arguments == {"enable_thinking": False}
    assert notes([row]) == []


def test_a_conversation_may_be_the_json_of_one(tmp_path: Path) -> None:
    text = json.dumps(ASKED).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages;system\n"{text}";Be brief.\n')
    assert examples(tmp_path / "a.csv")[0].content == ("system: Be brief.\nuser: a", "b")
    assert 'column "messages": not valid JSON' in refused([{"messages": "[{"}])[0]
    assert "a list of messages is expected, not str" in refused([{"messages": "hello"}])[0]


@pytest.mark.parametrize("key", ["messages", "conversations"])
@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("images", ["cat.png"], 'row 2: the column "images" holds media'),
        ("videos", ["cat.mp4"], 'row 2: the column "videos" holds media'),
        ("functions", [TOOL], 'row 2: the column "functions" holds tools'),
        ("documents", [{"text": "x"}], 'row 2: the column "documents" holds documents'),
        ("enable_thinking", False, 'row 2: the column "enable_thinking" holds an argument of the chat template'),
        ("train", False, 'row 2: "train" says that the row is not learned'),
        ("weight", 0, 'row 2: "weight" says that the row is not learned'),
        ("weight", 0.3, 'row 2: "weight" is 0.3, and every row that is learned counts alike'),
        ("loss", "false", 'row 2: "loss" says that the row is not learned'),
    ],
)
def test_what_changes_a_conversation_and_cannot_be_used_is_refused(
    key: str, column: str, value: Any, problem: str
) -> None:
    said, fix = refused([{key: ASKED, column: None}, {key: ASKED, column: value}])
    assert problem in said
    assert fix.endswith(".")


@pytest.mark.parametrize("value", [None, "", [], {}, "[]", " "])
def test_what_is_empty_says_nothing(value: Any) -> None:
    names = ("images", "functions", "documents", "tools", "history", "label", "enable_thinking")
    row = {"messages": ASKED, **dict.fromkeys(names, value), "system": None if value == "[]" else value}
    (example,) = examples([row])
    assert example.conversation is not None
    assert (example.conversation.messages, example.conversation.tools) == (tuple(ASKED), None)


@pytest.mark.parametrize("values", [(True, False), (1, 0), ("True", "False"), (1.0, 0.0)])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": ASKED},
        {"conversations": ASKED},
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "input": "", "output": "b"},
    ],
)
def test_answers_that_are_not_wanted_are_not_learned(row: dict[str, Any], name: str, values: tuple[Any, ...]) -> None:
    said, fix = refused([{**row, name: value} for value in values])
    assert f'"{name}" says whether an answer is wanted: 1 are, 1 are not. All would be learned.' in said
    assert f'Keep the rows whose "{name}" is true' in fix
    wanted = [{**row, name: values[0]}] * 2
    assert len(examples(wanted)) == 2
    assert notes(wanted) == [f"not used for prompt or answer: the column {name}"]


def test_a_label_that_is_no_judgement_is_named_and_one_that_a_template_names_is_used() -> None:
    rows = [{"messages": ASKED, "label": "news"}]
    assert len(examples(rows)) == 1
    assert notes(rows) == ["not used for prompt or answer: the column label"]
    judged = [{"prompt": "a", "completion": "b", "label": value} for value in (True, False)]
    assert [e.content for e in examples(judged, prompt="{prompt}{completion}?", completion=" {label}")] == [
        ("ab?", " true"),
        ("ab?", " false"),
    ]


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, '--prompt "{prompt}" --completion "{chosen}"'),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, '--prompt "{instruction}" --completion "{chosen}"'),
        ({"chosen": "a b", "rejected": "a c"}, '--text "{chosen}"'),
        ({"conversations": ASKED[:1], "chosen": ASKED[1], "rejected": ASKED[1]}, 'append "chosen" to "conversations"'),
        ({"chosen": ASKED, "rejected": ASKED}, 'call "chosen" "messages"'),
        ({"messages": ASKED, "rejected_response": "c"}, "Give rows with the answers to learn"),
    ],
)
def test_preference_pairs_are_refused_with_what_to_do(row: dict[str, Any], fix: str) -> None:
    said, done = refused([row])
    assert "holds preference pairs" in said
    assert fix in done
    if "--completion" in done:
        prompt = next(name for name in ("prompt", "instruction") if name in row)
        settings = {"prompt": f"{{{prompt}}}", "completion": "{chosen}"}
        assert examples([row], **settings)[0].content == ("a", "b")
        assert notes([row], **settings) == ["not used for prompt or answer: the column rejected"]


def test_instructions_with_a_system_text_and_a_history() -> None:
    row = {"instruction": "now", "input": "x", "output": "yes", "system": "Be brief.", "history": [["one", "two"]]}
    before = "Be brief.\n\n### Instruction:\none\n\n### Response:\ntwo\n\n"
    now = "### Instruction:\nnow\n\n### Input:\nx\n\n### Response:\n"
    assert examples([row])[0].content == (before + now, "yes")
    assert examples([{**row, "system": "", "history": "[]"}])[0].content == (now, "yes")
    assert notes([{**row, "source": "s"}]) == ["not used for prompt or answer: the column source"]
    assert "the history is no list of pairs" in refused([{**row, "history": [["one"]]}])[0]
    assert 'row 1: the column "tools" holds tools' in refused([{**row, "tools": [TOOL]}])[0]


def test_text_that_cannot_have_a_system_text_beside_it_is_refused_with_the_template_that_has_it() -> None:
    row = {"prompt": "a", "completion": "b", "system": "s"}
    said, fix = refused([row])
    assert 'row 1: the column "system" holds a system text, which these rows cannot use' in said
    assert fix == 'Name it in the prompt: --prompt "{system}\\n\\n{prompt}" --completion "{completion}"'
    assert examples([row], prompt="{system}\n\n{prompt}", completion="{completion}")[0].content == ("s\n\na", "b")
    assert len(examples([{"text": "a", "label": "b", "system": "linux"}])) == 1


def test_a_system_text_in_two_columns_is_refused() -> None:
    row = {"messages": ASKED, "system": "s", "system_prompt": "t"}
    assert 'row 1: the column "system_prompt" holds a system text' in refused([row])[0]
    (example,) = examples([{**row, "system_prompt": None}])
    assert example.prompt == "system: s\nuser: a"


def test_prompt_and_completion_of_messages_learn_the_completion_alone() -> None:
    row = {"prompt": [*ASKED, {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]}
    (example,) = examples([{**row, "tools": [TOOL]}])
    assert example.messages is not None
    assert [(m["content"], m.get("train", True)) for m in example.messages if m["role"] == "assistant"] == [
        ("b", False),
        ("d", True),
    ]
    assert example.conversation is not None
    assert example.conversation.tools
    assert 'row 2, column "prompt": a list of messages is expected' in refused([row, {**row, "prompt": "a"}])[0]


def test_questions_over_a_passage() -> None:
    row = {
        "id": "q",
        "title": "t",
        "context": "c",
        "question": "q?",
        "answers": {"text": ["x", "y"], "answer_start": [1]},
    }
    rows = [row, {**row, "answers": {"text": ["x", "x"]}}, {**row, "answers": {"text": []}}]
    assert [example.content for example in examples(rows)] == [("c\n\nQuestion: q?\nAnswer:", " x")] * 2
    assert notes(rows) == [
        "not used for prompt or answer: the column title",
        "1 questions have several answers: the first is the one learned and scored",
        "questions share their passages: --group context keeps those of one on one side of a split",
    ]
    assert notes(rows[:1], group="context")[1:] == notes(rows[:1])[1:]
    assert 'row 1, column "answers": texts of answers are expected' in refused([{**row, "answers": {"text": 3}}])[0]


def test_the_file_of_squad_is_read_as_its_rows(tmp_path: Path) -> None:
    asked = {"id": "7", "question": "q?", "answers": [{"text": "x", "answer_start": 3}], "is_impossible": False}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [asked]}]}]}))
    expected = {
        **{"id": "7", "title": "t", "context": "c", "question": "q?"},
        **{"answers": {"text": ["x"], "answer_start": [3]}, "is_impossible": False},
    }
    assert read_rows(path).rows == [expected]
    assert examples(path)[0].content == ("c\n\nQuestion: q?\nAnswer:", " x")
    for broken in ({}, {"paragraphs": [{"context": "c"}]}, {"paragraphs": 3}, 3):
        path.write_text(json.dumps([{"paragraphs": []}, broken]))
        with pytest.raises(InputError, match="a question that lacks or misplaces"):
            read_rows(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conll", "You\tO\nParis\tB-location\n"),
        ("a.tsv", "You\tO\nin\tO\n\nParis\tB-location\nTexas\tI-location\n"),
        ("a.txt", "You O\nin O\n\nParis B-location\n"),
        ("a.jsonl", '{"tokens": ["in", "Paris"], "ner_tags": [0, 1]}\n'),
    ],
)
def test_tokens_with_tags_are_refused_not_learned_as_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    said, fix = refused(tmp_path / name)
    assert f"{name} holds tokens with a tag each (CoNLL)" in said
    assert "one row for each sentence" in fix


def test_lines_that_end_in_a_capital_o_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("My blood group is O\nHis is A\n")
    assert len(examples(tmp_path / "a.txt")) == 2


def test_the_report_names_the_columns_that_are_not_used_once() -> None:
    rows = [{"id": i, "text": f"text {i}", "label": "ab"[i % 2], "who": f"w{i}", "url": "u"} for i in range(20)]
    section = DataSection(train=rows, test=rows[:3], group="who", deduplicate=False)
    report = load_splits(section, reading=ANSWERS, roles=("train", "validation", "test")).report
    assert [note for note in report.lines() if "not used" in note] == ["not used for prompt or answer: the column url"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1.0, 0.0, 1], {" 1", " 0"}),
        (["1.0", "0.0", "1", "", None], {" 1", " 0"}),
        ([1.0, float("nan"), 0], {" 1", " 0"}),
        ([2.0, -1.0], {" 2", " -1"}),
        (["007", "1.0"], {" 007", " 1.0"}),
        (["1.5", "1.0"], {" 1.5", " 1.0"}),
        (["1.0", "other"], {" 1.0", " other"}),
        ([True, 1.0], {" true", " 1.0"}),
        (["1.0", "1", "2.0", "other"], {" 1", " 2.0", " other"}),
        ([0.5, 1, 1.0], {" 0.5", " 1"}),
        ([True, 1, 1.0], {" true", " 1"}),
        ([" spam", "spam", "ham ", "ham"], {" spam", " ham"}),
        ([" 1", "1.0 ", "0"], {" 1", " 0"}),
    ],
)
def test_one_number_is_one_label_however_it_is_written(values: list[Any], labels: set[str]) -> None:
    rows = [{"text": f"t{number}", "label": value} for number, value in enumerate(values)]
    assert {example.completion for example in examples(rows)} == labels
    assert {example.completion for example in examples(rows, CLASSES)} == {label.strip() for label in labels}
    assert examples(rows)[0].row["label"] == values[0]


def test_answers_are_left_as_they_are_written_unless_they_are_few_numbers_written_in_two_ways() -> None:
    def answers(values: list[str], **settings: Any) -> set[str]:
        rows = [{"q": f"t{number}", "a": value} for number, value in enumerate(values)]
        return {example.completion for example in examples(rows, prompt="{q}", completion=" {a}", **settings)}

    assert answers(["3.0", "4.0", "5.0"]) == {" 3.0", " 4.0", " 5.0"}
    assert answers(["3.0", "4", "5.0", "3"]) == {" 3.0", " 4", " 5.0", " 3"}
    assert answers(["1.0", "0.0", "1", "0", "1", "1"]) == {" 1", " 0"}
    assert answers(["1.0", "0.0", "1.0", "0.0", "1.0", "1.0"]) == {" 1.0", " 0.0"}


def test_labels_that_the_settings_name_are_written_as_there() -> None:
    rows = [{"text": f"t{number}", "label": value} for number, value in enumerate((1.0, 0.0, 1.0))]
    named = examples(rows, CLASSES, labels=["0.0", "1.0"])
    assert {example.completion for example in named} == {"0.0", "1.0"}
    assert {example.completion for example in examples(rows, CLASSES, labels=["0", "1"])} == {"0", "1"}


LAYOUTS = ("messages", "prompt completion", "instruction output", "context question answers", "text label", "text")
BESIDE = (
    "system history tools chat_template_kwargs images label train chosen kto_tag weight other input tokens ner_tags"
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(ASKED),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("role", "text", "x")), inner),
    max_leaves=4,
)


def rows_with(names: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    beside = [name for name in BESIDE.split() if name not in names.split()]
    row = st.fixed_dictionaries(dict.fromkeys(names.split(), VALUES), optional=dict.fromkeys(beside, VALUES))
    return st.lists(row, min_size=1, max_size=3)


@given(st.sampled_from(LAYOUTS).flatmap(rows_with), st.sampled_from((ANSWERS, CLASSES)))
@settings(max_examples=300, deadline=None)
def test_any_rows_are_examples_or_a_clear_error(rows: list[dict[str, Any]], reading: Reading) -> None:
    try:
        made, empty = make_examples(read_rows(rows), DataSection(), reading)
        assert len(made) + sum(empty.values()) == len(rows)
        assert isinstance(notes_on_columns(read_rows(rows), DataSection(), reading), list)
    except InputError as error:
        assert error.fix


@needs_shared
@pytest.mark.parametrize("file", ["toolcall_demo.json", "reason_tool_use.jsonl", "alpaca_demo.json", "xquad_en.json"])
def test_real_layouts_that_are_used(file: str) -> None:
    made = examples(SHARED / file)
    assert len(made) == len(read_rows(SHARED / file).rows)
    assert all(example.completion.strip() for example in made)
    if "tool" in file:
        assert all(example.conversation and example.conversation.tools is not None for example in made[:1])


@needs_shared
@pytest.mark.parametrize(
    ("file", "problem", "fix"),
    [
        ("preference_demo.json", "holds preference pairs (chosen, rejected)", 'append "chosen" to "conversations"'),
        ("kto_demo.json", "150 are, 150 are not. All would be learned", 'Keep the rows whose "label" is true'),
        ("wnut17_dev.conll", "tokens with a tag each", "one row for each sentence"),
        ("sts2014_images.tsv", 'begins with "3.6"', "--columns score,text1,text2 --prompt"),
        ("sts2015_images.tsv", 'begins with ""', "--columns score,text1,text2 --prompt"),
    ],
)
def test_real_layouts_that_are_refused(file: str, problem: str, fix: str) -> None:
    said, done = refused(SHARED / file)
    assert problem in said
    assert fix in done


@needs_shared
@pytest.mark.parametrize(("file", "rows"), [("sts2014_images.tsv", 750), ("sts2015_headlines.tsv", 750)])
def test_sentence_pairs_are_read_as_proposed(file: str, rows: int) -> None:
    """Half of the files of 2015 have no score; such rows are left out and counted."""
    proposed = {"prompt": "{text1}\n{text2}\nScore:", "completion": " {score}"}
    section = DataSection(columns=["score", "text1", "text2"], **proposed)
    table = read_rows(SHARED / file, columns=section.columns)
    made, empty = make_examples(table, section, ANSWERS)
    assert len(made) == rows
    assert sum(empty.values()) == len(table.rows) - rows
    _, fix = refused(SHARED / file, CLASSES, columns=["score", "text1", "text2"])
    assert "one class for each different one" in fix
    assert '--columns "score,text1,text2"' in fix
