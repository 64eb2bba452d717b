"""The store of stages: whole or not at all, made once by many, and never taken for another."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from tunelift.core import files, stages

MAKER = """
import sys, time
from pathlib import Path
from tunelift.core import stages
seconds, log, when = float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def made():
    with log.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds if when == "making" else 0)
    return "it"

def save(made, folder):
    (folder / "one").write_text(made)
    log.with_name("saving").touch()
    time.sleep(seconds if when == "saving" else 0)
    (folder / "two").write_text(made)

print(stages.shared("kind", {"a": 1}, made, save, lambda folder: (folder / "two").read_text())[0])
"""


def process(seconds: float, log: Path, when: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", MAKER, str(seconds), str(log), when]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def kept(name: str = "kind", made: str = "it", **depends_on: Any) -> tuple[str, str]:
    def save(made: str, folder: Path) -> None:
        (folder / "one").write_text(made)

    return stages.shared(name, depends_on, lambda: made, save, lambda folder: (folder / "one").read_text())


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} was not written"
        time.sleep(0.02)


def test_what_four_processes_want_at_once_is_made_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = [process(1.0, log, "making") for _ in range(4)]
    assert [one.communicate(timeout=60)[0].strip() for one in running] == ["it"] * 4
    assert log.read_text().split() == ["made"]


@pytest.mark.parametrize("when", ["making", "saving"])
def test_a_killed_process_leaves_nothing_half(tmp_path: Path, when: str) -> None:
    log = tmp_path / "log"
    killed = process(60, log, when)
    wait_for(log if when == "making" else tmp_path / "saving")
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not [path for path in stages.folder().iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert process(0, log, when).communicate(timeout=60)[0].strip() == "it"
    assert log.read_text().split() == ["made"] * 2


def test_a_damaged_stage_is_made_again() -> None:
    with stages.told_of("first"):
        kept(a=1)
    assert kept(a=1, made="other") == ("it", "first")
    (file,) = stages.folder().glob("*/one")
    file.write_text("cut")
    assert kept(a=1, made="other") == ("other", stages.MADE_HERE)
    (facts,) = stages.folder().glob("*/stage.json")
    assert json.loads(facts.read_text())["depends_on"] == {"a": 1}
    file.unlink()
    assert kept(a=1, made="third")[0] == "third"


def flipped(file: Path) -> None:
    """Change one bit in the middle, after which the file is as long as it was, and mostly still what it was."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "flipped": flipped,
    "gone": Path.unlink,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("name", ["one", "stage.json"])
@pytest.mark.parametrize("how", DAMAGE)
def test_every_damage_is_told_and_made_again(name: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    with stages.told_of("first"):
        kept(a=1)
    (file,) = stages.folder().glob(f"*/{name}")
    DAMAGE[how](file)
    with stages.told_of("second"):
        assert kept(a=1, made="other") == ("other", stages.MADE_HERE)
    assert f"kind: what was kept of it in {file.parent} is damaged" in capsys.readouterr().err
    assert kept(a=1, made="third") == ("other", "second")
    assert capsys.readouterr().err == ""


def test_no_byte_of_what_a_stage_says_of_itself_is_believed_when_it_is_another() -> None:
    kept(a=1)
    (facts,) = stages.folder().glob("*/stage.json")
    whole = facts.read_bytes()
    for place in range(len(whole)):
        facts.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"not as it was written"):
            stages._facts_of(facts.parent)


def test_a_file_that_nobody_wrote_is_not_read() -> None:
    kept(a=1)
    (facts,) = stages.folder().glob("*/stage.json")
    (facts.parent / "two").write_text("from elsewhere")
    assert kept(a=1, made="other")[0] == "other"


def left_over() -> list[str]:
    return [path.name for path in stages.folder().iterdir() if path.name.endswith(files.PART)]


@pytest.mark.parametrize("when", ["while it is saved", "at its last file", "at its folder"])
def test_a_full_disk_leaves_no_half_stage_and_takes_nothing(
    when: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    kept(a=1)

    def save(made: str, folder: Path) -> None:
        (folder / "one").write_text(made[: len(made) // 2])
        if when == "while it is saved":
            raise full
        (folder / "one").write_text(made)

    def refuse(*_: Any, **__: Any) -> None:
        raise full

    with monkeypatch.context() as disk:
        if when == "at its last file":
            disk.setattr(files, "write_json", refuse)
        if when == "at its folder":
            disk.setattr(Path, "mkdir", refuse)
        for a in (2, 3):
            assert stages.shared("kind", {"a": a}, lambda: "new", save, lambda _: "") == ("new", stages.MADE_HERE)
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1, "once, and not for each stage"
    assert str(stages.folder()) in said
    assert left_over() == []
    assert kept(a=1, made="other")[0] == "it", "what was there is there"
    assert kept(a=2, made="made again")[0] == "made again"
    assert kept(a=2, made="other")[0] == "made again", "with room again it is kept"


def test_a_file_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python names no file when a write fails, and nobody would know which disk is full."""
    (tmp_path / "it.json").write_text("{}")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*it\.json"):
        files.write_json(tmp_path / "it.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]
    assert (tmp_path / "it.json").read_text() == "{}"


def test_two_that_make_one_at_the_same_time_without_a_lock_both_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a disk that knows no locks: the other one is done while this one writes."""

    def none(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", none)

    def save(made: str, folder: Path) -> None:
        (folder / "one").write_text(made)
        kept(a=1, made="the other's")

    assert stages.shared("kind", {"a": 1}, lambda: "mine", save, lambda _: "") == ("mine", stages.MADE_HERE)
    assert kept(a=1, made="third")[0] == "the other's"
    assert left_over() == []
    assert capsys.readouterr().err == ""


def test_what_is_used_is_not_removed_to_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        kept(a=number, made="x" * 1000)
        os.utime(stages.folder() / stages.hash_of("kind", {"a": number}), (number, number))
    first, second = (stages.folder() / stages.hash_of("kind", {"a": number}) for number in range(2))
    monkeypatch.setattr(stages, "LIMIT_BYTES", 0)
    real = FileLock.acquire

    def acquire(self: FileLock, *given: Any, **named: Any) -> Any:
        if Path(self.lock_file).stem == first.name:  # as if another process had it
            raise Timeout(self.lock_file)
        return real(self, *given, **named)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    kept(a=2)
    assert first.is_dir() and not second.is_dir()
    assert (stages.folder() / stages.hash_of("kind", {"a": 2})).is_dir(), "what was made just now stays"


def test_what_would_not_come_back_is_used_and_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def save(made: str, folder: Path) -> None:
        raise stages.NotKeptError

    assert stages.shared("kind", {"a": 1}, lambda: "it", save, lambda _: "")[0] == "it"
    assert left_over() == [] and capsys.readouterr().err == ""
    assert kept(a=1, made="other")[0] == "other"


def test_whatever_the_hash_is_of_makes_another_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    kept(a=1)
    assert kept(a=2, made="other")[0] == "other"
    assert kept("another", a=1, made="other")[0] == "other"
    for part, value in (("code", "ab"), ("_versions", {"torch": "9"}), ("_machine", ["other"])):
        with monkeypatch.context() as changed:
            changed.setattr(stages, part, lambda value=value: value)
            assert kept(a=1, made=part)[0] == part
    assert kept(a=1, made="other")[0] == "it"


def test_the_hash_knows_every_package_of_the_numbers_and_every_file_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"python", "torch", "transformers", "tokenizers", "scikit-learn", "rensa"} <= stages._versions().keys()
    package = tmp_path / "tunelift"
    (package / "core").mkdir(parents=True)
    (package / "passes.c").write_text("int one;")
    monkeypatch.setattr(stages, "__file__", str(package / "core" / "stages.py"))
    before = stages.code.__wrapped__()
    (package / "passes.c").write_text("int two;")
    assert stages.code.__wrapped__() != before


def test_those_not_used_for_longest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        kept(a=number, made="x" * 1000)
        os.utime(stages.folder() / stages.hash_of("kind", {"a": number}), (number, number))
    kept(a=0)  # is used now
    monkeypatch.setattr(stages, "LIMIT_BYTES", 6000)
    kept(a=3, made="x" * 1000)
    there = [(stages.folder() / stages.hash_of("kind", {"a": number})).is_dir() for number in range(4)]
    assert there[0]
    assert there[3]
    assert not there[1]


def test_what_nobody_can_tell_is_not_kept() -> None:
    assert stages.shared("kind", None, lambda: "it", lambda made, folder: None, lambda folder: "") == (
        "it",
        stages.MADE_HERE,
    )
    assert not stages.folder().exists()
    with pytest.raises(TypeError, match="no place"):
        kept(a=object())
