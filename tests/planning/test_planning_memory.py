"""Bytes by part: what they follow from, what fits, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_models
from tunelift.core.machine import MemoryLimit
from tunelift.planning.fitting import bytes_with, changes, largest, refused_by
from tunelift.planning.memory import Adapter, Facts, Rows, Settings, at_once, by_stage, changed, parts, peak
from tunelift.planning.sizes import bytes_of_weights, sizes_of
from tunelift.training.state import size_of

SIZES = sizes_of(tiny_models.causal("qwen3"), tiled=True)
SETTINGS = Settings(
    itemsize=2, micro_batch_tokens=256, max_length=512, batch_size=8, rank=8, rows_at_once=16, new_tokens=32
)


NAMES = {
    "train.micro_batch_tokens": "micro_batch_tokens",
    "train.max_length": "max_length",
    "train.gradient_checkpointing": "again",
    "adapter.r": "rank",
    "model.quantization": "quantization",
    "evaluate.batch_size": "rows_at_once",
}


def facts(**more: Any) -> Facts:
    rows = Rows(train=[100, 300, 40, 512, 60, 20, 90, 70, 30, 200], test=[50, 80, 20], prompts=[40, 60, 10])
    adapter = Adapter(10**6, 10**6, {"adamw": 2 * 10**6, "adamw-8bit": 5 * 10**5, "adafactor": 2 * 10**4}, 10**6)
    known = {"process": 5 * 10**8, "usable": 10**10} | more
    return Facts(SIZES, known.pop("rows", rows), known.pop("adapter", adapter), SETTINGS, **known)


def test_weights_are_those_of_the_model() -> None:
    for kind in ("llama", "gpt2", "gemma3_text", "qwen3"):
        model = tiny_models.causal(kind).to(torch.bfloat16)
        sizes = sizes_of(model, tiled=True)
        assert bytes_of_weights(sizes, 2, "none") == size_of(model.parameters())
        body = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
        head = model.get_output_embeddings()
        assert sizes.linear == sum(m.weight.numel() for m in body if m is not head)


@settings(deadline=None)  # on a busy machine
@given(
    st.integers(16, 4096), st.integers(16, 1024), st.integers(1, 64), st.integers(1, 256), st.booleans(),
    st.sampled_from(["none", "int8", "int4"]),
)  # fmt: skip
def test_more_is_never_less(micro: int, length: int, batch: int, rank: int, again: bool, kind: str) -> None:
    own = replace(
        SETTINGS, micro_batch_tokens=micro, max_length=length, batch_size=batch, rank=rank, again=again,
        quantization=kind,
    )  # fmt: skip
    known = replace(facts(), planned=replace(SETTINGS, quantization=kind), usable=0)
    planned = bytes_with(known, own)
    assert planned >= peak(parts(known, own), certain=True) > 0
    for more in ({"rank": rank + 8}, {"micro_batch_tokens": 2 * micro}, {"rows_at_once": 32}, {"new_tokens": 64}):
        assert bytes_with(known, changed(own, **more)) >= planned
    assert bytes_with(known, changed(own, again=True)) <= planned


@settings(deadline=None)  # on a busy machine
@given(st.integers(8, 4096))
def test_the_largest_micro_batch_is_planned_as_it_is_made(micro: int) -> None:
    known, own = facts(), replace(SETTINGS, micro_batch_tokens=micro)
    longest = max(known.rows.train)
    assert longest <= at_once(known, own) <= max(micro, longest)


@settings(deadline=None)  # on a busy machine
@given(st.integers(0, 4 * 10**8))
def test_what_is_said_to_fit_does_and_a_little_more_does_not(room: int) -> None:
    known = facts()
    limit = known.process + room
    for key, found in largest(known, limit).items():
        if found is None:
            assert bytes_with(known, changed(SETTINGS, **{NAMES[key]: 1})) > limit
            continue
        assert bytes_with(known, changed(SETTINGS, **{NAMES[key]: found})) <= limit


@settings(deadline=None)  # on a busy machine
@given(st.integers(0, 4 * 10**8))
def test_changes_are_made_until_it_fits_and_each_saves_something(room: int) -> None:
    known = facts(usable=0)
    limit, own = known.process + room, SETTINGS
    for change in changes(known, limit, narrow=True):
        before = by_stage(parts(known, own))
        assert max(before.values()) > limit and change.saves > 0
        own = changed(own, **{NAMES[key]: value for key, value in change.keys.items()})
        assert sum(by_stage(parts(known, own)).values()) < sum(before.values())
    if bytes_with(known, own) > limit:  # whatever else there is brings no stage nearer to it
        over = [count for count in by_stage(parts(known, own)).values() if count > limit]
        for more in ({"again": True}, {"quantization": "int4"}, {"rows_at_once": 1}):
            left = [count for count in by_stage(parts(known, changed(own, **more))).values() if count > limit]
            assert sum(left) >= sum(over)


def test_nothing_is_refused_that_is_not_certain() -> None:
    known = facts()
    certain = peak(parts(known, SETTINGS), certain=True)
    planned = bytes_with(known, SETTINGS)
    assert certain < planned
    between = MemoryLimit("container", certain, certain, kills=True)
    assert refused_by(known, [between]) is None
    below = MemoryLimit("container", certain - 1, certain - 1, kills=True)
    assert refused_by(known, [below]) == below


def test_swap_counts_and_a_limit_that_only_slows_refuses_nothing() -> None:
    known = facts()
    assert refused_by(known, [MemoryLimit("machine", 1, 10**12, kills=True)]) is None
    assert refused_by(known, [MemoryLimit("memory.high", 1, None, kills=False)]) is None


def test_where_running_out_is_told_single_rows_are_what_counts() -> None:
    many = Rows(train=[64] * 64, test=[8])
    known = replace(facts(rows=many), planned=replace(SETTINGS, micro_batch_tokens=4096, batch_size=64))
    whole = peak(parts(known, known.planned), certain=True)
    single = peak(parts(known, changed(known.planned, micro_batch_tokens=1)), certain=True)
    assert single < whole
    told, ended = (MemoryLimit("limit", single, single, kills=kills) for kills in (False, True))
    assert refused_by(known, [told]) is None
    assert refused_by(known, [ended]) == ended


def test_packed_weights_are_counted_where_a_run_makes_them() -> None:
    named = "weights in the order of fast products"
    small, large = facts(usable=1), facts(usable=10**12)
    assert not [p for p in parts(small, SETTINGS) if p.name.startswith(named)]
    assert [p for p in parts(large, SETTINGS) if p.name.startswith(named)]
