"""What the library leaves behind in the process of its caller is what docs/reliability.md names, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunelift.core import files, randomness

NAMED = {"load": {"malloc"}, "evaluate": {"attention"}}
"""By the call that does it first: glibc's thresholds, and our functions in transformers' registry of attention."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at a process as Linux shows it")
def test_nothing_is_left_behind_but_what_is_named(tmp_path: Path) -> None:
    probe = Path(__file__).with_name("effects_probe.py")
    environment = os.environ | {
        "TUNELIFT_CACHE": str(tmp_path / "cache"), "TUNELIFT_STATE": str(tmp_path / "state"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(probe.parents[1]), *sys.path]),
    }  # fmt: skip
    told = subprocess.run(
        [sys.executable, str(probe), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr[-2000:]
    found = json.loads(told.stdout.splitlines()[-1])
    assert {stage: set(names) for stage, names in found.items()} == NAMED
    named = (Path(__file__).parents[2] / "docs/reliability.md").read_text(encoding="utf-8")
    for what in ("malloc", "registry of attention", "TUNELIFT_CACHE", "TUNELIFT_STATE", "SIGALRM", "RLIMIT_AS"):
        assert what in named


def test_the_umask_is_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for an instant, in which another thread's files would be open to all."""
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    try:
        files.write_text(tmp_path / "file", "text")
        files.write_folder(tmp_path / "folder", lambda staging: (staging / "inner").touch(0o600))
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder", "folder/inner")]
    assert modes == [0o640, 0o750, 0o640]


def test_random_numbers_go_on_as_if_none_had_been_drawn_with_a_seed() -> None:
    import random

    import numpy as np
    import torch

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    def begin() -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    begin()
    expected = drawn()
    begin()
    with randomness.seeded(5):
        first = drawn()
    assert drawn() == expected
    with pytest.raises(ZeroDivisionError), randomness.seeded(5):
        assert drawn()[2] == first[2] != expected[2]
        raise ZeroDivisionError
