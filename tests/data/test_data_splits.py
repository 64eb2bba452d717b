"""Who gets which rows: deterministic, without duplicates, without leaks, and tune never receives test."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunelift.config.schema import DataSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.data.columns import ANSWERS, CLASSES
from tunelift.data.splits import Splits, load_splits

SHARED = Path(__file__).parents[2] / "../shared/data"
TUNE = ("train", "validation")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "text": f"text {i}", "label": "ab"[i % 2], "who": f"w{i % 20}"}
        for i in range(start, start + count)
    ]


def splits(roles: Sequence[str] = ("train", "validation", "test"), **settings: Any) -> Splits:
    return load_splits(DataSection(**settings), reading=ANSWERS, roles=roles)


def ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def test_fractions_are_taken_from_train_and_every_row_is_somewhere() -> None:
    made = splits(train=rows(1000), test=0.2, validation=0.1)
    everything = ids(made.train) + ids(made.validation) + ids(made.test)
    assert sorted(everything) == sorted(ids(examples_of(rows(1000))))
    assert 160 < len(made.test) < 240
    assert 55 < len(made.validation) < 110
    counts = made.report.splits["train"]
    assert counts.read == 1000 == counts.split_off + counts.kept
    assert list(made.report.splits) == ["train", "validation", "test"]


def examples_of(data: list[dict[str, Any]]) -> list[Example]:
    return splits(("test",), test=data).test


def test_tune_and_evaluate_agree_and_tune_never_receives_a_test_row() -> None:
    settings = {"train": rows(500), "test": 0.2}
    run, tune, evaluate = splits(**settings), splits(TUNE, **settings), splits(("test",), **settings)
    assert tune.test == [] == evaluate.train
    assert ids(run.train) == ids(tune.train)
    assert ids(run.validation) == ids(tune.validation)
    assert ids(run.test) == ids(evaluate.test)
    assert "test" not in tune.report.splits


def test_a_test_file_is_not_opened_by_tune(tmp_path: Path) -> None:
    made = splits(TUNE, train=rows(100), test=tmp_path / "does-not-exist.csv")
    assert made.test == []
    assert any("no test set was read" in note for note in made.report.notes)
    with pytest.raises(InputError, match="does not exist"):
        splits(train=rows(100), test=tmp_path / "does-not-exist.csv")


def test_sides_follow_from_the_content_not_from_the_order_or_from_other_rows() -> None:
    shuffled = rows(500)
    random.Random(1).shuffle(shuffled)
    first, second, more = (splits(train=data, test=0.2) for data in (rows(500), shuffled, rows(600)))
    assert set(ids(first.test)) == set(ids(second.test)) == set(ids(more.test)) & set(ids(examples_of(rows(500))))
    assert set(ids(splits(train=rows(500), test=0.2, seed=1).test)) != set(ids(first.test))


def test_sides_do_not_depend_on_the_template() -> None:
    first, second = (
        splits(train=rows(500), test=0.2, prompt=prompt, completion=" {label}")
        for prompt in ("{text}\n", "Who? {text}")
    )
    assert ids(first.test) == ids(second.test)
    assert ids(first.train) == ids(second.train)


def test_groups_stay_together() -> None:
    made = splits(train=rows(400), test=0.3, validation=0.2, group="who")
    groups = [{example.cluster for example in part} for part in (made.train, made.validation, made.test)]
    assert all(groups)
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups)) == 20


def test_duplicates_are_removed_first_and_the_first_stays() -> None:
    data = rows(50) + [{**row, "id": "again"} for row in rows(50)]
    made = splits(train=data, test=0.2)
    assert made.report.splits["train"].duplicates == 50
    assert "again" not in ids(made.train) + ids(made.validation) + ids(made.test)
    relabelled = splits(train=rows(50) + [{**row, "label": "c"} for row in rows(50)], test=0.2)
    assert not {e.prompt for e in relabelled.train} & {e.prompt for e in relabelled.test}
    kept = splits(train=data, test=0.2, deduplicate=False)
    assert kept.report.splits["train"].duplicates == 0
    assert not {e.prompt for e in kept.train} & {e.prompt for e in kept.test}


def test_rows_that_stand_in_test_are_removed_from_train_and_validation_and_test_stays_whole() -> None:
    test = [
        {"text": "TEXT  3", "label": "b"},
        {"text": "text 4", "label": "other"},
        {"text": "text 4", "label": "other"},
    ]
    validation = [{"text": "text 3", "label": "b"}, {"text": "text 900", "label": "a"}]
    made = splits(train=rows(50), validation=validation, test=test)
    assert not {"3", "4"} & set(ids(made.train))
    assert (made.report.splits["train"].overlap, made.report.splits["validation"].overlap) == (2, 1)
    assert len(made.test) == 3
    assert len(made.train) == 48
    kept = splits(train=rows(50), validation=validation, test=test, deduplicate=False)
    assert len(kept.train) == 50
    assert any("deduplicate is off" in note for note in kept.report.notes)


def long_rows(count: int) -> list[dict[str, Any]]:
    """Rows of 15 random words each."""
    rng = random.Random(7)
    return [
        {"id": str(i), "text": " ".join(f"word{rng.randrange(3000)}" for _ in range(15)), "label": "ab"[i % 2]}
        for i in range(count)
    ]


def nearly(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The row with one word exchanged."""
    return {**row, "text": row["text"].rsplit(" ", 1)[0] + " another", **changes}


def templated_rows() -> list[dict[str, Any]]:
    """Forty rows made from two templates."""
    frames = ["we sent the parcel with the old shoes to {} and now nobody there can find it at all"]
    frames.append("my brother would like to move away to {} as soon as he is well again")
    places = [first + second for first in "bcdfghjk" for second in "aeiou"]
    return [{"text": frames[i % 2].format(place), "label": "ab"[i % 2]} for i, place in enumerate(places)]


def test_rows_that_test_nearly_holds_are_removed_and_said_which() -> None:
    train = long_rows(60)
    test = [nearly(train[3], id="near"), {**train[4], "id": "same"}, {**long_rows(80)[70], "id": "new"}]
    validation = [nearly(train[3], id="v"), {**long_rows(80)[75], "id": "w"}]
    made = splits(train=train, validation=validation, test=test)
    assert not {"3", "4"} & set(ids(made.train))
    assert ids(made.validation) == ["w"]
    counts = made.report.splits["train"]
    assert (counts.overlap, counts.near_overlap, counts.kept) == (1, 1, 58)
    assert ids(made.test) == ["near", "same", "new"]
    assert made.duplicate_of == {"near": "3", "same": "4"}
    assert [(leak.row.id, leak.test.id, leak.is_near) for leak in made.leaks] == [
        ("4", "same", False), ("3", "near", True),
    ]  # fmt: skip
    assert "1 removed because test or validation has nearly the same" in made.report.lines()[0]
    off = splits(train=train, validation=validation, test=test, deduplicate=False)
    assert (len(off.train), off.duplicate_of) == (60, {})


def test_rows_that_validation_holds_are_removed_from_train_by_run_and_by_tune() -> None:
    train, new = long_rows(60), long_rows(90)
    validation = [nearly(train[3], id="near"), {**train[4], "id": "same"}, new[75]]
    tune = splits(TUNE, train=train, validation=validation)
    assert set(ids(train_of(train))) - set(ids(tune.train)) == {"3", "4"}
    assert ids(tune.validation) == ["near", "same", "75"]
    counts = tune.report.splits["train"]
    assert (counts.overlap, counts.near_overlap, counts.kept) == (1, 1, 58)
    run = splits(train=train, validation=validation, test=new[80:])
    assert (ids(run.train), run.leaks, run.duplicate_of) == (ids(tune.train), [], {})
    off = splits(TUNE, train=train, validation=validation, deduplicate=False)
    assert len(off.train) == 60


def train_of(data: list[dict[str, Any]]) -> list[Example]:
    return splits(TUNE, train=data, validation=None).train


def test_train_is_not_cleaned_of_a_validation_row_that_test_took() -> None:
    train, new = long_rows(60), long_rows(90)
    words = new[70]["text"].split()
    taken = {**new[70], "id": "taken", "text": " ".join([*words[:11], "one", "two", "three", "four"])}
    train[5] = {**train[5], "text": " ".join(["five", "six", "seven", "eight", *taken["text"].split()[4:]])}
    made = splits(train=train, validation=[taken, new[75]], test=[new[70], new[80]])
    assert (ids(made.validation), len(made.train)) == (["75"], 60)
    assert "5" not in ids(splits(TUNE, train=train, validation=[taken, new[75]]).train)


def test_groups_with_a_row_in_validation_leave_train_whole_and_rows_without_a_group_stay() -> None:
    validation = [{"text": "something else", "label": "a", "who": "w3"}, {"text": "more", "label": "b", "who": ""}]
    train = [*rows(40), {"id": "2", "text": "no group", "label": "a", "who": ""}]
    made = splits(TUNE, train=train, validation=validation, group="who")
    assert made.report.splits["train"].overlap == 2
    assert "w3" not in {example.cluster for example in made.train}


def test_a_validation_of_templates_and_of_few_prompts_leaves_train_its_rows() -> None:
    data = templated_rows()
    made = splits(TUNE, train=data[:30], validation=data[30:])
    assert len(made.train) == 30
    assert any("nearly the same as a validation row" in note for note in made.report.notes)
    poems = [{"prompt": "Write:" if i % 2 else "Tell:", "completion": f"poem {i}"} for i in range(60)]
    few = splits(TUNE, train=poems, validation=0.2)
    assert len(few.train) + len(few.validation) == 60
    assert any("the same prompt as a validation row" in note for note in few.report.notes)
    one = splits(TUNE, train=[{**row, "prompt": "Write:"} for row in poems], validation=poems[1:2])
    assert len(one.train) == 59


def test_the_template_makes_no_row_a_near_duplicate() -> None:
    template = "Read the following message of a customer with care and name its intent in one word: {text}\nIntent:"
    made = splits(train=long_rows(60), test=long_rows(90)[60:], prompt=template, completion=" {label}")
    assert (len(made.train) + len(made.validation), made.leaks) == (60, [])


def test_near_duplicates_fall_on_one_side_of_a_split_and_tune_and_evaluate_agree() -> None:
    base = long_rows(200)
    data = base + [nearly(row, id=f"near {row['id']}") for row in base]
    random.Random(3).shuffle(data)
    made = splits(train=data, test=0.3, validation=0.2)
    sides = [{name.removeprefix("near ") for name in ids(part)} for part in (made.train, made.validation, made.test)]
    assert sum(map(len, sides)) == len(sides[0] | sides[1] | sides[2]) == 200
    assert sum(len(part) for part in (made.train, made.validation, made.test)) == 400
    assert ids(splits(("test",), train=data, test=0.3, validation=0.2).test) == ids(made.test)
    assert ids(splits(TUNE, train=data, test=0.3, validation=0.2).train) == ids(made.train)
    templated = splits(train=data, test=0.3, validation=0.2, prompt="Who? {text}", completion=" {label}")
    assert ids(templated.test) == ids(made.test)


def test_reformatted_rows_of_one_answer_are_duplicates_and_near_ones_stay() -> None:
    data = long_rows(40)
    shouted = {**data[0], "id": "loud", "text": data[0]["text"].upper().replace(" ", "  ") + "!"}
    made = splits(TUNE, train=[*data, shouted, nearly(data[1], id="near")], validation=None)
    assert made.report.splits["train"].duplicates == 1
    assert "near" in ids(made.train)
    assert made.report.hygiene["near_duplicates"]["within_train"] == 1


def test_rows_made_from_one_template_stay_and_it_is_said() -> None:
    data = templated_rows()
    assert len(splits(TUNE, train=data, validation=0.3).validation) > 3
    made = splits(train=data[:30], validation=None, test=data[30:])
    assert len(made.train) == 30
    assert any("seem to be made from templates" in note for note in made.report.notes)
    assert len(made.duplicate_of) == 10


def test_one_prompt_for_all_rows_is_no_overlap() -> None:
    train = [{"prompt": "Write:", "completion": f"poem {i}"} for i in range(30)]
    made = splits(train=train, validation=0.2, test=[{"prompt": "Write:", "completion": f"POEM {i}"} for i in (1, 99)])
    assert made.report.splits["train"].overlap + made.report.splits["validation"].overlap == 1


def test_limits_are_drawn_by_seed_in_order() -> None:
    made = splits(train=rows(300), validation=rows(300, 300), test=rows(300, 600), max_train=50, max_test=20)
    assert (len(made.train), len(made.validation), len(made.test)) == (50, 200, 20)
    assert ids(made.train) == sorted(ids(made.train), key=int)
    assert made.report.splits["train"].capped == 250
    again = splits(train=rows(300), validation=rows(300, 300), test=rows(300, 600), max_train=50, max_test=20)
    assert ids(again.train) == ids(made.train)
    other = splits(train=rows(300), validation=rows(300, 300), test=rows(300, 600), max_train=50, seed=1)
    assert ids(other.train) != ids(made.train)


def test_validation_rows_beyond_the_limit_stay_in_train() -> None:
    made = splits(TUNE, train=rows(2000), validation=0.5, max_validation=100)
    assert 50 < len(made.validation) <= 100
    assert len(made.train) + len(made.validation) > 1950


def test_without_a_test_run_splits_a_fifth_off_and_evaluate_asks_for_one() -> None:
    made = splits(train=rows(500))
    assert 70 < len(made.test) < 130
    assert any("20% of train" in note for note in made.report.notes)
    assert len(splits(TUNE, train=rows(500)).train) > len(made.train)
    with pytest.raises(InputError, match=r"data\.test is not set"):
        splits(("test",), train=rows(500))
    with pytest.raises(InputError, match=r"data\.train is not set"):
        splits(TUNE)


def test_a_folders_own_splits_stand_for_what_is_not_set(tmp_path: Path) -> None:
    for name, data in (("train", rows(60)), ("valid", rows(20, 60)), ("test", rows(20, 80))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    made = splits(train=str(tmp_path))
    assert (len(made.train), len(made.validation), len(made.test)) == (60, 20, 20)
    assert list(made.report.sources) == [str(tmp_path / f"{name}.jsonl") for name in ("train", "valid", "test")]
    assert len(splits(train=str(tmp_path), validation=0.5).validation) != 20
    assert ids(splits(("test",), test=str(tmp_path)).test) == ids(made.test)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(InputError, match="no train split; it has validation, test"):
        splits(train=str(tmp_path))


def test_roles_left_without_rows_are_errors() -> None:
    with pytest.raises(InputError, match=r"No rows are left for train: .*removed because test or validation has them"):
        splits(train=rows(20), test=rows(20))
    with pytest.raises(InputError, match=r"No test can be split off train: it has too few different rows \(1\)"):
        splits(train=rows(1), test=0.5)
    with pytest.raises(InputError, match=r'too few values of "who" \(1\)'):
        splits(train=[{**row, "who": "me"} for row in rows(20)], test=0.5, group="who")
    with pytest.raises(InputError, match=r"all 1 rows are left out \(empty completion\)"):
        splits(train=[{"text": "a", "label": ""}])


def test_two_rows_are_enough_for_two_sides() -> None:
    made = splits(("train", "test"), train=rows(2), validation=None, test=0.01)
    assert (len(made.train), len(made.test)) == (1, 1)


def test_the_report_says_what_was_lost() -> None:
    made = splits(train=[*rows(40), rows(1)[0], {"text": "", "label": "a"}], test=rows(10), validation=rows(5, 100))
    assert made.report.lines()[0] == (
        "train: 30 rows of 42 (1 empty, 1 removed as duplicates, 10 removed because test or validation has them)"
    )
    report = json.loads(json.dumps(made.report.to_dict()))
    assert report["splits"]["train"]["empty_reasons"] == {"empty prompt": 1}
    assert len(report["sources"]) == 1 or all(len(value) == 64 for value in report["sources"].values())


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside the project")
def test_real_data() -> None:
    templates = {"prompt": "{text}\nCategory:", "completion": " {category}"}
    train, test = SHARED / "banking77_train.csv", SHARED / "banking77_test.csv"
    made = splits(train=train, test=test, max_test=300, **templates)
    assert (made.report.splits["train"].read, made.report.splits["test"].read) == (10_003, 3_080)
    assert made.report.splits["train"].overlap == 7
    assert len(made.test) == 300
    sst2 = splits(train=SHARED / "sst2_train.tsv", test=SHARED / "sst2_dev.tsv", columns=["label", "text"])
    assert sst2.report.splits["train"].read == 6_920
    assert {example.completion for example in sst2.test} == {" 0", " 1"}


def test_a_group_called_as_rows_without_one_are_is_a_group_like_any_other() -> None:
    """Row 7 of test is in the group "row 7", so that group leaves train; a row without a group is in none of test's."""
    test = [{"id": "7", "text": "asked of seven", "label": "a", "who": "row 7"}]
    train = [*rows(9), {"id": "9", "text": "answered by seven", "label": "b", "who": "row 7"}]
    made = splits(train=train, test=test, validation=0.2, group="who")
    assert "9" not in ids(made.train) + ids(made.validation)
    assert made.report.splits["train"].overlap == 1

    test = [{"id": "1", "text": "asked of seven", "label": "a", "who": "row 7"}]
    train = [{**row, "who": ""} for row in rows(9)]
    made = splits(train=train, test=test, validation=0.2, group="who")
    assert made.report.splits["train"].overlap == 0


def test_rows_without_a_group_are_clusters_of_their_own_whatever_groups_are_called() -> None:
    data = [{**row, "who": who} for row, who in zip(rows(4), ("row 1", "", "row 1 alone", ""), strict=True)]
    made = splits(("test",), test=data, group="who").test
    assert [row.cluster for row in made] == ["row 1", "row 1 alone alone", "row 1 alone", "row 3"]


def talk(*said: str, **last: Any) -> dict[str, Any]:
    """Return a row of messages: what is said by user and assistant in turn."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    return {"messages": messages} | last


def far_apart(count: int) -> list[dict[str, Any]]:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abcdefghij", k=6)) for _ in range(400)]
    return [talk(*(" ".join(drawn.sample(words, 12)) for _ in range(4))) for _ in range(count)]


def test_a_conversation_that_learns_an_item_of_test_on_its_way_is_removed() -> None:
    """As logs have it, in which each row is the conversation so far."""
    whole = far_apart(12)
    begun = [talk(*(m["content"] for m in row["messages"][:2])) for row in whole[:4]]
    same_question = talk(whole[5]["messages"][0]["content"], "something else")
    made = splits(train=whole, test=[*begun, same_question], validation=whole[11:])
    assert len(made.train) == 7
    assert made.report.splits["train"].overlap == 5  # four of test, one of validation
    assert made.duplicate_of == {str(n): str(n) for n in (1, 2, 3, 4)}
    last_alone = splits(train=whole, test=begun, validation=whole[11:], turns="last")
    assert len(last_alone.train) == 11
    unlearned = [talk(*(m["content"] for m in row["messages"])) for row in whole[:4]]
    for row in unlearned:
        row["messages"][1]["train"] = False
    assert len(splits(train=unlearned + whole[4:], test=begun, validation=whole[11:]).train) == 11


def test_a_pair_that_stands_in_test_the_other_way_round_is_removed_from_train() -> None:
    def pairs(*some: tuple[str, str]) -> list[dict[str, Any]]:
        return [{"text": one, "text_pair": two, "label": "same"} for one, two in some]

    train, test = pairs(("a man", "one guy"), ("a cat", "one dog")), pairs(("One guy", "a  man"), ("a bird", "a fish"))
    section = DataSection(train=train, validation=None, test=test)
    found = load_splits(section, reading=CLASSES)
    assert [example.prompt for example in found.train] == ["a cat\none dog"]
    assert found.duplicate_of == {found.test[0].id: "1"}
