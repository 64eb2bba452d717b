"""A small part of benchmarks/fuzz.py: whatever stands in a file, its reader reads it or says what is wrong."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelift.core.errors import InputError, TuneliftError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
TARGETS = ("csv", "tsv", "jsonl", "json", "txt", "config", "adapter", "manifest", "gguf", "safetensors", "scores")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_every_target_is_tried_here(fuzz: ModuleType) -> None:
    assert tuple(fuzz.TARGETS) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_sound_inputs_are_read(fuzz: ModuleType, name: str, tmp_path: Path) -> None:
    read, seeds = fuzz.TARGETS[name]()
    done = 0
    for content in seeds:
        try:
            read(tmp_path, content)
            done += 1
        except TuneliftError as error:
            assert str(tmp_path) in str(error) or "ids that occur more than once" in str(error)
    assert done >= len(seeds) / 3, "some are in other encodings, or hold no rows of ours"


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_read_or_refused(
    fuzz: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutations as the long command makes them, among them an input of 100 kB, within its limits of time and memory."""
    if name == "gguf":
        pytest.importorskip("gguf")
    monkeypatch.setattr(fuzz, "EVERY", 50)
    tally = fuzz.run_own(name, 60 if name == "manifest" else 250, 1, tmp_path)
    assert tally.wrong == {}
    assert 0 < tally.read < tally.inputs
    assert tally.blown_up > 0


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_read_or_refused(fuzz: ModuleType, name: str, tmp_path: Path) -> None:
    if name == "gguf":
        pytest.importorskip("gguf")
    read, seeds = fuzz.TARGETS[name]()

    @settings(max_examples=25, deadline=2000, suppress_health_check=list(HealthCheck), database=None)
    @given(content=st.one_of(st.binary(max_size=200), st.builds(bytes.__add__, st.sampled_from(seeds), st.binary())))
    def tried(content: bytes) -> None:
        try:
            read(tmp_path, content)
        except TuneliftError as error:
            assert str(error)

    tried()


def test_a_fault_is_found_and_kept(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge itself: a crash, one that takes long, and one that takes memory are each noticed."""

    def read(folder: Path, content: bytes) -> object:
        if b"crash" in content:
            raise KeyError(content)
        if b"refuse" in content:
            raise InputError("no")
        return list(range(300_000)) if b"memory" in content else sum(range(10**6 if b"slow" in content else 10))

    monkeypatch.setattr(fuzz, "SECONDS", 0.003)
    monkeypatch.setattr(fuzz, "BLOWN_UP", 10)
    tally = fuzz.Tally("toy", "own")
    judge = fuzz.Judge([b"a"], read, tmp_path, tally, tmp_path / "crashes")
    for content in (b"fine", b"refuse", b"crash", b"slow"):
        judge(content)
    judge._weighed(b"memory")
    assert (tally.inputs, tally.read) == (4, 3)
    assert [kind.split()[0] for kind in tally.wrong] == ["KeyError", "over", "memory"]
    assert [Path(file).read_bytes() for file in tally.wrong.values()] == [b"crash", b"slow", b"memory"]


def test_mutations_are_drawn_by_the_seed(fuzz: ModuleType) -> None:
    seeds = [b'{"a": [1, 2]}\n{"b": "c"}', b"id,correct\n1,1\n"]
    drawn = [[fuzz.mutated(seeds, draw) for _ in range(50)] for draw in (random.Random(3), random.Random(3))]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 40
