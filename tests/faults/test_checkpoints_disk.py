"""Saves that are killed, cut from power, or refused by the disk, at each of their system calls."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_trainings import in_child
from disk_model import Disk, hooked

from tunelift.core.errors import TuneliftError
from tunelift.training.checkpoint import Checkpoints


def save(folder: Path, step: int) -> None:
    tensors = {"parameter/a": torch.full((3,), float(step)), "best/a": torch.full((3,), -float(step))}
    Checkpoints(folder, 1, "this").save(step, tensors, {"step": step})


def step_of(folder: Path) -> int | None:
    """Return the step that a resumed training would go on from."""
    loaded = Checkpoints(folder, 1, "this").load()
    if loaded is None:
        return None
    tensors, facts = loaded
    assert float(tensors["parameter/a"][2]) == -float(tensors["best/a"][0]) == facts["step"]
    return int(facts["step"])


def calls_of_a_save(folder: Path, step: int) -> list[str]:
    calls: list[str] = []
    with hooked(lambda name, _: calls.append(name)):
        save(folder, step)
    return calls


def test_a_save_killed_at_each_system_call_leaves_the_one_before_or_itself(tmp_path: Path) -> None:
    template = tmp_path / "counted"
    for step in (1, 2, 3):
        save(template, step)
    count = len(calls_of_a_save(template, 4))
    assert count > 15
    outcomes = set()
    for point in range(count):
        folder = tmp_path / str(point)
        for step in (1, 2, 3):
            save(folder, step)

        def action(folder: Path = folder, point: int = point) -> None:
            left = [point]

            def hook(name: str, arguments: tuple[Any, ...]) -> None:
                left[0] -= 1
                if left[0] < 0:
                    if name == "write":  # killed inside it: the file is there, its bytes are not
                        Path(arguments[0]).touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            with hooked(hook):
                save(folder, 4)

        assert in_child(action) == -signal.SIGKILL
        outcomes.add(step_of(folder))
        save(folder, 5)
        assert step_of(folder) == 5
    assert outcomes == {3, 4}


def test_power_lost_at_each_call_leaves_what_had_been_saved(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    disk, checked, saved = Disk(root), 0, list[int]()

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal checked
        for kept in range(len(disk.pending) + 1):
            place = tmp_path / f"after-{checked}"
            disk.after_power_loss(place, kept)
            assert step_of(place / "run" / "checkpoints") in ([*saved[-1:], len(saved) + 1] if saved else [None, 1])
            checked += 1
        if name in ("unlink", "rmdir"):  # of the oldest, by descriptors: what is gone was not needed
            return
        disk.heard(name, arguments)

    with hooked(hook):
        for step in (1, 2, 3):
            save(root / "run" / "checkpoints", step)
            saved.append(step)
    assert checked > 100


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_leaves_the_one_before_and_says_so(tmp_path: Path, number: int) -> None:
    save(tmp_path / "counted", 1)
    save(tmp_path / "counted", 2)
    for point in range(calls_of_a_save(tmp_path / "counted", 3).index("unlink")):
        folder, left = tmp_path / str(point), [point]
        save(folder, 1)
        save(folder, 2)

        def hook(name: str, arguments: tuple[Any, ...], left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0 and name not in ("unlink", "rmdir"):
                raise OSError(number, os.strerror(number))

        with hooked(hook), pytest.raises(TuneliftError, match=r"No checkpoint could be made after step 4") as caught:
            save(folder, 4)
        assert os.strerror(number) in str(caught.value)
        assert step_of(folder) in (2, 4)
        assert list(folder.glob(".*")) == [], "something half written was left"


def test_a_short_write_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    plain = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: plain(self, data[:-1]))
    save(tmp_path, 2)
    assert step_of(tmp_path) == 1
