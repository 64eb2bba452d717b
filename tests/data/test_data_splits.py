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
from tunelift.data.splits import Splits, load_splits

SHARED = Path(__file__).parents[2] / "../shared/data"
TUNE = ("train", "validation")


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "text": f"text {i}", "label": "ab"[i % 2], "who": f"w{i % 20}"}
        for i in range(start, start + count)
    ]


def splits(roles: Sequence[str] = ("train", "validation", "test"), **settings: Any) -> Splits:
    return load_splits(DataSection(**settings), task="causal-lm", roles=roles)


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
    with pytest.raises(InputError, match=r"No rows are left for train: .*removed because test has them"):
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
        "train: 30 rows of 42 (1 empty, 1 duplicates removed, 10 removed because test has them)"
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
