"""What every test gets: a place of its own for what tunelift keeps about its user."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest

from tunelift.adapters.methods import METHODS, Method
from tunelift.core import progress
from tunelift.core.cache import folder
from tunelift.core.registry import Registry

_numbers = count()

USERS_CACHE = folder()


@pytest.fixture(scope="session", autouse=True)
def state_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set the place for fixtures that live longer than a test."""
    folder = tmp_path_factory.mktemp("states")
    os.environ["TUNELIFT_STATE"] = str(folder / "shared")
    os.environ["TUNELIFT_CACHE"] = str(new_cache(folder / "cache"))
    return folder


@pytest.fixture(autouse=True)
def own_state(state_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count looks at test sets anew in each test, and know no scores from before; leave the user's own alone.

    A command that was told to be quiet is so for its own test alone, and what is said once is said in each test.
    """
    progress.note_once.cache_clear()
    monkeypatch.setattr(progress, "quiet", progress.quiet)
    number = next(_numbers)
    monkeypatch.setenv("TUNELIFT_STATE", str(state_folders / str(number)))
    monkeypatch.setenv("TUNELIFT_CACHE", str(new_cache(state_folders / f"cache{number}")))


def new_cache(cache: Path) -> Path:
    """Make a cache without scores; converted models take minutes to make and are the user's own."""
    cache.mkdir()
    for kept in ("models", "hashes", "precision"):
        (USERS_CACHE / kept).mkdir(parents=True, exist_ok=True)
        (cache / kept).symlink_to(USERS_CACHE / kept)
    return cache


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Registry[Method]:
    """Return the table of PEFT methods, which forgets after the test what is added in it."""
    monkeypatch.setattr(METHODS, "_entries", dict(METHODS._entries))
    return METHODS
