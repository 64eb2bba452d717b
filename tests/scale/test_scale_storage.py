"""Runs at an address: whole and of one moment whenever a process dies, and never taken for what they are not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from tunelift.core.errors import InputError, TuneliftError
from tunelift.run_files.layout import RunPaths, stored_list
from tunelift.scale import remote
from tunelift.scale.remote import Paced, own_folder
from tunelift.scale.storage import Kept, Storage, files_of

pytest.importorskip("fsspec", reason="fsspec is not installed")
RUNNING, COMPLETE = json.dumps({"format": 1, "status": "running"}), json.dumps({"format": 1, "status": "complete"})


@pytest.fixture(params=["memory", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path}" if request.param == "memory" else f"file://{tmp_path}/bucket/sweep"


def written(folder: Path, contents: dict[str, str]) -> Path:
    """Make a folder hold exactly these files."""
    for path in files_of(folder):
        if path.relative_to(folder).as_posix() not in contents:
            path.unlink()
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def held(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files_of(folder)}


def names_at(store: Storage) -> list[str]:
    return sorted(name.removeprefix(store.base).lstrip("/") for name in store.fs.find(store.base))


FIRST = {"manifest.json": RUNNING, "events.jsonl": "one\n", "checkpoints/step-1/tensors": "1" * 9}
SECOND = {"manifest.json": RUNNING, "events.jsonl": "one\ntwo\n", "checkpoints/step-2/tensors": "2" * 9}
LAST = {"manifest.json": COMPLETE, "events.jsonl": "one\ntwo\nend\n", "adapter/weights": "w" * 99, "empty": ""}


def test_a_run_lies_there_by_its_names_when_it_is_complete(address: str, tmp_path: Path) -> None:
    here, there = Storage.open(address, tmp_path / "here"), Storage(address, tmp_path / "there")
    run, other = here.root / "a", there.root / "a"
    run.mkdir(parents=True)
    (run / ".lock").write_text("")
    (run / ".x.part").write_text("half")
    kept = Kept(here, run)
    for contents in (FIRST, SECOND, SECOND, LAST):
        written(run, contents)
        kept.push()
        assert there.pull(other) == ""
        assert held(other) == contents
    assert names_at(here) == sorted([f"a/{name}" for name in LAST] + ["a.stored.json"])
    assert not (other / "checkpoints").exists(), "an empty folder is not left"
    Kept(there, other).push()
    assert names_at(here) == sorted([f"a/{name}" for name in LAST] + ["a.stored.json"])
    assert not list(here.root.glob("*.part"))


def test_what_did_not_change_is_not_brought_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(f"memory://{tmp_path}", tmp_path / "here")
    run = written(store.root / "a", FIRST)
    kept, brought = Kept(store, run), list[str]()
    plain = Kept._brought
    monkeypatch.setattr(
        Kept, "_brought", lambda self, name, *a, **k: brought.append(name) or plain(self, name, *a, **k)
    )
    kept.push()
    assert sorted(brought) == sorted(FIRST)
    assert brought[0] == "manifest.json", "it speaks of the others, which may be later than it, and not earlier"
    brought.clear()
    kept.push()
    (run / "manifest.json").touch()
    kept.push()
    assert brought == []
    written(run, SECOND)
    kept.push()
    assert sorted(brought) == ["checkpoints/step-2/tensors", "events.jsonl"]
    brought.clear()
    Kept(store, run).push()
    assert brought == [], "another process knows them by what they hold"


class Failing:
    """A file system that fails from its so many-th change on: as the last that a killed process did."""

    def __init__(self, fs: Any, after: int) -> None:
        self.fs, self.left = fs, after

    def _change(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("gone")

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.fs, name)
        if name not in ("pipe_file", "mv", "rm_file", "open"):
            return real

        def change(*given: Any, **named: Any) -> Any:
            self._change()
            return real(*given, **named)

        return change


def test_wherever_it_ends_what_lies_there_is_of_one_moment(address: str, tmp_path: Path) -> None:
    moments = [{}, FIRST, SECOND, LAST]
    for before, now in pairwise(moments):
        for after in count():
            store = Storage(f"{address}/{len(now)}{now['events.jsonl'][-4:-1]}{after}", tmp_path / "here")
            run = written(store.root / "a", before)
            kept = Kept(store, run)
            if before:
                kept.push()
            whole, store.fs = store.fs, Failing(store.fs, after)
            written(run, now)
            try:
                kept.push()
            except TuneliftError as error:
                assert store.address in str(error)
            failed, store.fs = store.fs.left < 0, whole
            other = Storage(store.address, tmp_path / f"there{now['events.jsonl'][-4:-1]}{after}")
            assert other.pull(other.root / "a") == ""
            found = held(other.root / "a")
            assert found == (now if not failed else found if found in (before, now) else None)
            kept.push()
            assert other.pull(other.root / "a") == ""
            assert held(other.root / "a") == now, "the next one brings what this one did not"
            if not failed:
                break
        assert after > 3


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize("name", ["a/adapter/weights", "a/manifest.json", "a.stored.json"])
@pytest.mark.parametrize("damage", [cut, flipped, lambda _: b"", None])
def test_what_is_damaged_there_is_told_and_brought_anew(
    address: str, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    store = Storage(address, tmp_path / "here")
    run = written(store.root / "a", LAST)
    Kept(store, run).push()
    at = f"{store.base}/{name}"
    store.fs.rm_file(at) if damage is None else store.fs.pipe_file(at, damage(store.fs.cat_file(at)))
    other = Storage(address, tmp_path / "there")
    written(other.root / "a", FIRST)
    said = other.pull(other.root / "a")
    if (damage, name) == (None, "a.stored.json"):
        assert said == "" and held(other.root / "a") == FIRST, "without its list no run is there"
    else:
        assert address in said and "It is made anew." in said
        assert not (other.root / "a").exists()
    again = written(other.root / "a", LAST)
    Kept(other, again).push()
    assert store.pull(run) == ""
    assert held(run) == LAST


@pytest.mark.parametrize(
    "files",
    [
        *({"../b": {}}, {"/etc/b": {}}, {"a/../../b": {}}, {"c:b": {}}, {"a\\b": {}}, {"": {}}),
        *({"b": {"other": "../../x"}}, {"b": {"bytes": None, "other": 1}}, [], {"b": []}, "b"),
    ],
)
def test_a_list_of_somebody_elses_leads_nowhere(tmp_path: Path, files: Any) -> None:
    store = Storage(f"memory://{tmp_path}", tmp_path / "here")
    if isinstance(files, dict):
        plain = {"bytes": 1, "sha256": "0", "other": False}
        files = {name: {**plain, **one} if isinstance(one, dict) else one for name, one in files.items()}
    store.fs.pipe_file(store.at(stored_list(store.root / "a")), json.dumps({"format": 1, "files": files}).encode())
    assert "the list of a is not what was written there" in store.pull(store.root / "a")
    assert not list(tmp_path.rglob("b"))


def test_a_list_of_a_later_format_is_refused(tmp_path: Path) -> None:
    store = Storage(f"memory://{tmp_path}", tmp_path / "here")
    at = store.at(stored_list(store.root / "a"))
    store.fs.pipe_file(at, json.dumps({"format": 99, "files": {}}).encode())
    with pytest.raises(InputError, match="format 99"):
        store.pull(store.root / "a")
    assert store.fs.exists(at), "the one who can read it still can"


def test_a_checkpoint_that_gives_way_while_it_is_brought_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Storage(f"memory://{tmp_path}", tmp_path / "here")
    run = written(store.root / "a", FIRST)
    plain = Kept._brought

    def slow(self: Kept, *given: Any, **named: Any) -> Any:
        written(run, SECOND)
        return plain(self, *given, **named)

    monkeypatch.setattr(Kept, "_brought", slow)
    Kept(store, run).push()
    other = Storage(store.address, tmp_path / "there")
    other.pull(other.root / "a")
    assert held(other.root / "a")["checkpoints/step-1/tensors"] == FIRST["checkpoints/step-1/tensors"]


def test_a_run_comes_without_its_checkpoints_where_they_are_not_wanted(address: str, tmp_path: Path) -> None:
    store = Storage(address, tmp_path / "here")
    Kept(store, written(store.root / "a", SECOND)).push()
    other = Storage(address, tmp_path / "there")
    assert other.pull(other.root / "a", checkpoints=False) == ""
    without = {name: text for name, text in SECOND.items() if "checkpoints" not in name}
    assert held(other.root / "a") == without
    store.drop_checkpoints(store.root / "a")
    assert names_at(store) == sorted([*(f"a/{name}" for name in without), "a.stored.json"])
    assert other.pull(other.root / "a") == "" and held(other.root / "a") == without


def test_a_path_is_found_however_it_is_written(tmp_path: Path) -> None:
    store = Storage(f"memory://{tmp_path}", Path("runs/../runs/sweep"))
    for path in ("runs/sweep/a", "runs/sweep/finalists/../a", "runs/../runs/sweep/a", "./runs/sweep/a"):
        assert store.inside(Path(path)) == "a"
    with pytest.raises(ValueError, match="subpath"):
        store.inside(Path("runs/sweep/../other"))


def test_single_files_come_and_go_whole(address: str, tmp_path: Path) -> None:
    here, there = Storage(address, tmp_path / "here"), Storage(address, tmp_path / "there")
    (tmp_path / "here").mkdir()
    (here.root / "a.log").write_text("one")
    here.put(here.root / "a.log", here.root / "none")
    there.get(there.root / "a.log", there.root / "none")
    assert [path.name for path in there.root.iterdir()] == ["a.log"]
    assert names_at(here) == ["a.log"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("bucket/sweep", "is no address"),
        ("/mnt/shared", "named by output alone"),
        ("nosuch://bucket", "no address that fsspec knows"),
        ("file:///proc/version/sweep", "Nothing can be kept there"),
    ],
)
def test_what_cannot_be_kept_at_is_refused(address: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        Storage.open(address, tmp_path)


@pytest.mark.parametrize(("missing", "address"), [("fsspec", "memory://a"), ("s3fs", "s3://bucket/a")])
def test_without_the_package_it_says_what_to_install(
    missing: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"pip install 'tunelift\[storage\]'"):
        Storage.open(address, tmp_path)


def test_an_address_that_fails_is_named(tmp_path: Path) -> None:
    store = Storage(f"memory://{tmp_path}", tmp_path / "here")
    store.fs = Failing(store.fs, 0)
    written(store.root / "a", FIRST)
    with pytest.raises(TuneliftError, match=r"memory://.* could not be written to: OSError: gone\nGive the same"):
        Kept(store, store.root / "a").push()


def test_a_worker_removes_what_killed_ones_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(remote.tempfile, "tempdir", str(tmp_path))
    left, new, others = (tmp_path / name for name in (f"{remote.OWN}left", f"{remote.OWN}new", "others"))
    for folder in (left, new, others):
        folder.mkdir()
        (folder / "file").write_text("x")
    with own_folder() as at_work:
        assert RunPaths(at_work).lock.exists()
        for folder in (left, others, at_work):
            os.utime(folder, (1, 1))
        with own_folder() as second:
            assert {path.name for path in tmp_path.iterdir()} == {
                *(folder.name for folder in (new, others, at_work, second))
            }
    assert {path.name for path in tmp_path.iterdir()} == {new.name, others.name}


def test_what_takes_long_is_done_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0.0], list[float]()
    monkeypatch.setattr(remote.time, "monotonic", lambda: now[0])

    def do() -> None:
        done.append(now[0])
        now[0] += 3.0 if len(done) == 2 else 0.0

    paced = Paced(do)
    while now[0] < 20:
        paced()
        now[0] += 0.5
    assert done[:3] == [0.0, 2.0, 17.0]
