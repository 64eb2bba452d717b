"""What is proposed for columns of unusual names, and for files whose first line may be no header."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.data.columns import ANSWERS, CLASSES, Reading, notes_on_columns
from tunelift.data.examples import make_examples
from tunelift.data.sources import read_rows


def proposal(source: Any, reading: Reading = ANSWERS, **settings: Any) -> str:
    section = DataSection(**settings)
    with pytest.raises(InputError) as error:
        make_examples(read_rows(source, columns=section.columns), section, reading)
    return str(error.value.fix)


def followed(source: Any, fix: str, reading: Reading = ANSWERS) -> list[tuple[str, str]]:
    """Do what a proposal says: read its flags as a shell and the command line do."""
    words = shlex.split(fix[fix.index("--columns" if "--columns" in fix else "--prompt") :].splitlines()[0])
    flags = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    settings: dict[str, Any] = {name: value.replace("\\n", "\n") for name, value in flags.items()}
    columns = settings.pop("columns", None)
    section = DataSection(**settings, columns=columns.split(",") if columns else None)
    made, _ = make_examples(read_rows(source, columns=section.columns), section, reading)
    return [example.content for example in made]


@pytest.mark.parametrize(
    ("row", "content"),
    [
        (
            {"instruction": "Name it.", "context": "A long passage about cats.", "response": "a cat", "category": "qa"},
            ("Name it.\n\nA long passage about cats.\nResponse:", " a cat"),
        ),
        (
            {"question": "Who?", "context": "A long passage about cats.", "answer": "cats"},
            ("A long passage about cats.\n\nQuestion: Who?\nAnswer:", " cats"),
        ),
        (
            {"premise": "A man eats.", "hypothesis": "He is hungry.", "label": 1},
            ("Premise: A man eats.\nHypothesis: He is hungry.\nLabel:", " 1"),
        ),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, ("a\nb\nLabel:", " 0")),
        ({"question1": "a?", "question2": "b?", "score": 0.5}, ("a?\nb?\nScore:", " 0.5")),
        ({"query": "a", "response": "b", "url": "a long address"}, ("a\nResponse:", " b")),
        ({"title": "t", "article": "a long text", "summary": "short"}, ("a long text\nSummary:", " short")),
    ],
)
def test_all_that_is_asked_is_in_the_prompt(row: dict[str, Any], content: tuple[str, str]) -> None:
    assert followed([row], proposal([row])) == [content]


def test_a_column_of_messages_under_another_name() -> None:
    assert proposal([{"dialog": [{"role": "user", "content": "a"}]}]) == (
        'The column "dialog" holds messages; call it "messages".'
    )
    rows = [{"messages": [{"role": "user", "content": "a"}], "label": "x"}]
    assert "a classification head takes text" in proposal(rows, CLASSES)


def test_a_head_gets_all_texts_and_no_fractions() -> None:
    pair = {"sentence": "a", "hypothesis": "b"}
    fix = proposal([{**pair, "label": 1}], CLASSES)
    assert '--text "hypothesis" --text-pair "sentence" --label "label"' in fix
    fix = proposal([{**pair, "score": 0.5}, {**pair, "score": 3.0}], CLASSES)
    assert fix.startswith(
        'The column "score" holds numbers, and a head for labels has one class for each different one.'
    )
    assert '--text "hypothesis" --text-pair "sentence" --label "score" --task regression' in fix


@pytest.mark.parametrize(
    ("name", "text", "content"),
    [
        (
            "labels last",
            "good film,pos\nbad film,neg\nfine film,pos\nwell made,pos\npoor,neg\ngreat,pos\nso so,neg\n",
            ("good film\nLabel:", " pos"),
        ),
        ("labels first", "pos;good film\npos;fine\npos;well made\nneg;bad\npos;nice\n", ("good film\nLabel:", " pos")),
        ("numbers", "0,good film\n1,bad film\n0,fine\n1,poor\n0,well\n1,bad\n", ("good film\nLabel:", " 0")),
        (
            "questions",
            "How do I log in?,Click on log in.\nWhere are my files?,In your folder.\n",
            ("How do I log in?\nAnswer:", " Click on log in."),
        ),
        (
            "long",
            "one two three four five six seven,eins zwei\none,eins\ntwo,zwei\n",
            ("one two three four five six seven\nAnswer:", " eins zwei"),
        ),
        ("words", "bonjour,hello\nmerci,thanks\noui,yes\n", ("bonjour\nAnswer:", " hello")),
        (
            "three",
            "2.50,a cat sits,a cat is sitting\n3,a dog runs,a dog is running\n1.25,a man,a tree\n",
            ("a cat sits\na cat is sitting\nScore:", " 2.50"),
        ),
        (
            "ids",
            "1,yes,fine film\n2,yes,well\n3,yes,nice\n4,no,bad\n5,yes,poor\n6,no,worse\n",
            ("fine film\nLabel:", " yes"),
        ),
    ],
)
def test_a_file_without_a_header_keeps_its_first_row(
    tmp_path: Path, name: str, text: str, content: tuple[str, str]
) -> None:
    path = tmp_path / f"{name}.csv"
    path.write_text(text)
    made = followed(path, proposal(path))
    assert made[0] == content
    assert len(made) == text.count("\n")


def test_a_header_of_unknown_names_is_believed_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("meldung,art\nein langer Text,lob\nnoch ein Text,tadel\n")
    fix = proposal(path)
    assert fix.startswith("If the first line is a row, no header: --columns question,answer")
    assert '--prompt "{meldung}\\nArt:" --completion " {art}"' in fix.splitlines()[1]


def test_a_question_of_a_survey_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("How was your visit today?,rating of it\nGreat!,5\nToo long.,2\nIt was fine.,5\n")
    fix = proposal(path)
    assert '--prompt "{How was your visit today?}\\nRating of it:" --completion " {rating of it}"' in fix
    assert "looks like data" not in fix


def test_the_first_line_is_asked_about_too_where_a_template_names_another_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("0,good film\n1,bad film\n0,fine\n1,poor\n0,well\n1,bad\n")
    assert "--columns label,text" in proposal(path, prompt="{text}", completion="{label}")
    (tmp_path / "b.jsonl").write_text('{"0": "a", "1": "b"}\n')
    assert "first line" not in proposal(tmp_path / "b.jsonl", prompt="{text}", completion="{label}")


def test_a_header_that_became_a_row_is_pointed_out(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(12))
    section = DataSection(columns=["text", "label"])

    def notes(first: str) -> list[str]:
        (tmp_path / "a.csv").write_text(first + rows)
        return notes_on_columns(read_rows(tmp_path / "a.csv", columns=section.columns), section, ANSWERS)

    assert notes("") == []
    assert notes("text,label\n") == []
    (note,) = notes("sentence,category\n")
    assert "line 1: sentence, category looks like a header and is a row" in note
