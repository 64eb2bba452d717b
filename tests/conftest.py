"""What every test gets: a place of its own for what tunelift keeps about its user."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

_numbers = count()


@pytest.fixture(scope="session", autouse=True)
def state_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set the place for fixtures that live longer than a test."""
    folder = tmp_path_factory.mktemp("states")
    os.environ["TUNELIFT_STATE"] = str(folder / "shared")
    return folder


@pytest.fixture(autouse=True)
def own_state(state_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count looks at test sets anew in each test, and leave the user's own count alone."""
    monkeypatch.setenv("TUNELIFT_STATE", str(state_folders / str(next(_numbers))))
