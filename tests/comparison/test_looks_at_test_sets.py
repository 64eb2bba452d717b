"""The count of looks at one test set: what is a look, what is not, and that it never fails a comparison."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunelift.comparison.looks_at_test_sets import FILE, count_look, tuned_hash
from tunelift.comparison.looks_at_test_sets import (
    test_hash as hash_of_items,  # pytest would take its own name for a test
)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "input": f"text {number}", "reference": "yes", "metrics": {"accuracy": 1}} | more


def test_the_hash_of_a_test_set_is_that_of_its_items_alone() -> None:
    rows = [row(number) for number in range(5)]
    known = hash_of_items(rows)
    assert len(known) == 16
    renamed = [row(number, id=f"x{number}", metrics={"loss": 2.0}, prediction="no") for number in (3, 1, 4, 0, 2)]
    assert hash_of_items(renamed) == known
    assert hash_of_items(rows[:4]) != known
    assert hash_of_items([*rows[:4], row(4, reference="no")]) != known
    assert hash_of_items([*rows[:4], row(4, input={"of": "any kind"})]) != known


def test_the_hash_of_a_result_is_that_of_its_answers() -> None:
    rows = [row(number, prediction="a") for number in range(3)]
    known = tuned_hash(rows)
    assert tuned_hash(reversed(rows)) == known
    assert tuned_hash([one | {"log_likelihood": -1.0} for one in rows]) == known
    assert tuned_hash([*rows[:2], row(2, prediction="b")]) != known
    assert tuned_hash([*rows[:2], row(2, prediction="a", metrics={"accuracy": 0})]) != known
    assert tuned_hash([*rows[:2], row(2, prediction="a", counts={"bleu": {"length": 3}})]) != known


def test_another_result_is_a_look_and_the_same_one_is_not() -> None:
    assert [count_look("test", tuned) for tuned in ("a", "b", "a", "b", "c")] == [1, 2, 2, 2, 3]
    assert count_look("another", "a") == 1
    assert count_look("test", "a") == 3


def test_broken_lines_are_skipped_and_a_line_cut_off_takes_no_other_with_it() -> None:
    path = Path(os.environ["TUNELIFT_STATE"]) / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"test a\n\xff\xfe broken\ntest\ntest b extra\n\ntest c\nte")
    assert count_look("test", "d") == 3
    assert count_look("test", "d") == 3
    assert path.read_bytes().endswith(b"\nte\ntest d\n")


def test_a_folder_that_cannot_be_written_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TUNELIFT_STATE", str(tmp_path / "file" / "below"))
    assert count_look("test", "a") is None
    (tmp_path / "state" / FILE).mkdir(parents=True)
    monkeypatch.setenv("TUNELIFT_STATE", str(tmp_path / "state"))
    assert count_look("test", "a") is None


def test_without_the_variable_it_is_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import platformdirs

    monkeypatch.delenv("TUNELIFT_STATE")
    monkeypatch.setattr(platformdirs, "user_state_path", lambda name: tmp_path / name)
    assert count_look("test", "a") == 1
    assert (tmp_path / "tunelift" / FILE).is_file()


def test_two_processes_counting_at_once_lose_nothing() -> None:
    code = (
        "import sys; from tunelift.comparison.looks_at_test_sets import count_look\n"
        "found = [count_look('test', f'{sys.argv[1]}-{n % 50}') for n in range(100)]\n"
        "assert found == sorted(found) and None not in found"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("one", "two")]
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    assert count_look("test", "one-0") == 100
