"""Tables made by anybody: column names, numbers in words, ids or their lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunelift.comparison import compare
from tunelift.comparison.readers import read_scores
from tunelift.core.errors import InputError


def table(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("id,input,reference,prediction,correct", "7,why?,because,no,0"),
        ("Question_ID,Question,Answer,Response,Correct", "7,why?,because,no,FALSE"),
        ("doc_id;prompt;target;output;correct", "7;why?;because;no;incorrect"),
        ("item\tprompt\tgold\tpred\tcorrect", "7\twhy?\tbecause\tno\tI"),
        ("ITEM ID,query,label,completion,correct", '7,"why?",because,no,No'),
    ],
)
def test_columns_are_known_by_the_names_people_use(tmp_path: Path, header: str, line: str) -> None:
    (row,) = read_scores(table(tmp_path, f"{header}\n{line}\n")).rows
    metric = "Correct" if "Correct" in header else "correct"
    assert row == {"id": "7", "input": "why?", "reference": "because", "prediction": "no", "metrics": {metric: 0.0}}


def test_numbers_become_metrics_known_names_first_and_the_rest_stays_for_slices(tmp_path: Path) -> None:
    text = "id,seconds,topic,loss,acc,passage\n1,0.5,a,1.25,true,p\n2,3,b,,false,p\n3,2e0,,inf,C,q\n"
    scores = read_scores(table(tmp_path, text))
    assert list(scores.info["metrics"]) == ["acc", "loss", "seconds"]
    assert [row["metrics"] for row in scores.rows][:2] == [
        {"acc": 1, "seconds": 0.5, "loss": 1.25},
        {"acc": 0, "seconds": 3},
    ]
    assert [row.get("topic") for row in scores.rows] == ["a", "b", None]
    assert [row["cluster"] for row in scores.rows] == ["p", "p", "q"]
    assert scores.info["metrics"]["loss"] == {"value": 1.25, "higher_is_better": False, "items": 1}
    assert scores.info["metrics"]["acc"]["value"] == pytest.approx(2 / 3)
    assert scores.info["notes"] == [
        'a.csv: "passage" is the group; --columns reference=NAME says otherwise, and so for each.',
        "a.csv: no column is the input or the reference, so items are identified by their id alone.",
    ]
    assert scores.info["metrics"]["seconds"]["higher_is_better"] is None


def test_words_are_a_metric_only_where_the_whole_column_is_such(tmp_path: Path) -> None:
    mixed = read_scores(table(tmp_path, "id,answered,good,score\n1,yes,yes,1\n2,perhaps,no,0\n"))
    assert list(mixed.info["metrics"]) == ["score", "good"]
    assert [row["answered"] for row in mixed.rows] == ["yes", "perhaps"]


def test_row_numbers_of_pandas_are_no_id_and_no_metric(tmp_path: Path) -> None:
    scores = read_scores(table(tmp_path, ",question,correct\n0,a,1\n1,b,0\n"))
    assert list(scores.info["metrics"]) == ["correct"]
    assert all(len(row["id"]) == 16 for row in scores.rows)


def test_without_an_id_the_content_pairs_in_any_order_or_the_file_is_refused(tmp_path: Path) -> None:
    base = table(tmp_path, "question,answer,correct\na,1,0\na,2,0\nb,1,1\n", "base.csv")
    tuned = table(tmp_path, "question,answer,correct\nb,1,1\na,2,1\na,1,0\n", "tuned.csv")
    comparison = compare(base, tuned)
    assert comparison.metrics["correct"].discordant == {"gained": 1, "lost": 0}
    assert [flip["input"] for flip in comparison.flips] == ["a"]
    twice = table(tmp_path, "question,answer,correct\na,1,0\nb,1,0\na,1,1\n", "twice.csv")
    with pytest.raises(InputError, match="line 4: no column is an id, and input and reference are those of line 2 too"):
        read_scores(twice)
    with pytest.raises(
        InputError, match=r"no column says which item a row is\. Its columns: correct, answer"
    ) as caught:
        read_scores(table(tmp_path, "correct,answer\n1,a\n0,b\n"))
    assert "Line numbers would pair wrong items silently" in str(caught.value.fix)


def test_ids_that_occur_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ids that occur more than once: 1"):
        compare(*[table(tmp_path, "id,correct\n1,1\n1,0\n")] * 2)


def test_a_row_without_a_value_is_unscored_not_zero(tmp_path: Path) -> None:
    base = table(tmp_path, "id,correct,unscored\n1,1,\n2,,\n3,0,timeout\n4,1,false\n")
    rows = read_scores(base).rows
    assert [row.get("unscored") for row in rows] == [None, "it has no value of any metric", "timeout", None]
    comparison = compare(base, base)
    assert (comparison.metrics["correct"].items, len(comparison.left_out)) == (2, 2)


def test_a_field_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = 'id,output,correct\r\n1,"a, ""b""\r\nc",1\r\n2,d,0\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert [row["prediction"] for row in read_scores(tmp_path / "a.csv").rows] == ['a, "b"\r\nc', "d"]
    with pytest.raises(InputError, match="line 5: 2 fields for 3 columns"):
        read_scores(table(tmp_path, 'id,output,correct\n1,"a\n\n",1\n2,d\n'))


def test_another_id_or_content_under_an_id_is_refused(tmp_path: Path) -> None:
    base = table(tmp_path, "id,question,correct\n1,a,1\n2,b,0\n", "base.csv")
    with pytest.raises(InputError, match="1 items have another input or reference"):
        compare(base, table(tmp_path, "id,question,correct\n1,a,1\n2,c,0\n", "other.csv"))
    with pytest.raises(InputError, match="1 of the 2 items in base are not in tuned"):
        compare(base, table(tmp_path, "id,question,correct\n1,a,1\n3,c,0\n", "other.csv"))
