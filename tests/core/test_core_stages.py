"""The store of stages: whole or not at all, made once by many, and never taken for another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tunelift.core import stages

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
