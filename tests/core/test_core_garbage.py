"""Garbage is looked for among new objects only, and all comes back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from tunelift.core import garbage


class Thing:
    """It can be in a circle of its own, which only a search for garbage finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def nothing_set_aside() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_new_garbage_is_found_and_old_garbage_afterwards() -> None:
    old = weakref.ref(Thing())
    with garbage.not_among_what_is():
        new = weakref.ref(Thing())
        gc.collect()
        assert new() is None
        assert old() is not None
    gc.collect()
    assert old() is None


def test_what_somebody_else_set_aside_stays_so() -> None:
    gc.freeze()
    count = gc.get_freeze_count()
    with garbage.not_looked_for(), garbage.not_among_what_is():
        pass
    assert gc.get_freeze_count() >= count > 0


def test_nothing_is_looked_through_meanwhile_and_what_was_made_is_old() -> None:
    gc.enable()
    with pytest.raises(RuntimeError, match="inside"), garbage.not_looked_for():
        assert not gc.isenabled()
        made = Thing()
        raise RuntimeError("inside")
    assert gc.isenabled()
    assert any(one is made for one in gc.get_objects(generation=2))


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with garbage.not_looked_for():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
