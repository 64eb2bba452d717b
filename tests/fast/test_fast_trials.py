"""Fast paths are held to the plain one's own rounding, in the dtype in use and at the length of the data's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
from tunelift.core import cache
from tunelift.fast import tried
from tunelift.fast.rounding import apart, asked_plainly, in_float32
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.undo import Undo, stock
from tunelift.fast.unpad import sped_up

KINDS = sorted(set(tiny_models.ARCHITECTURES) - {"bloom"})  # which takes no packed rows
LONG = [3 + i * 7 % 40 for i in range(100)]


def packs(model: Any, rows: list[list[int]] | None = None) -> bool:
    view, _ = target_model(model, rows or [])
    return isinstance(view, TargetOnly) and view.packs


@pytest.mark.parametrize("kind", KINDS)
def test_right_paths_are_within_the_rounding_of_bfloat16(kind: str) -> None:
    model = tiny_models.causal(kind).to(torch.bfloat16)
    with sped_up(model):
        view, _ = target_model(model)
    assert (view.fast_paths["packing"], view.fast_paths["last_layer"]) == ("on", "on"), view.fast_paths


@pytest.mark.parametrize("off_by", [0.0, 0.08])
def test_a_path_some_percent_off_is_refused_in_bfloat16(off_by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    own = TargetOnly.packed_hidden

    def worse(self: TargetOnly, *args: Any) -> torch.Tensor:
        states = own(self, *args)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
        return (states + off_by * states.norm() / noise.norm() * noise).to(states.dtype)

    monkeypatch.setattr(TargetOnly, "packed_hidden", worse)
    assert packs(tiny_models.causal("llama").to(torch.bfloat16)) == (off_by == 0.0)


@pytest.mark.parametrize("rows", [[LONG[:30]], [LONG, LONG[:5]]])
def test_what_goes_wrong_in_long_rows_only_is_seen_in_such_rows(
    rows: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunelift.fast.trials.TELLING", 40)
    own = TargetOnly.packed_hidden

    def forgetful(self: TargetOnly, packed_row: Any, *args: Any) -> torch.Tensor:
        states = own(self, packed_row, *args).clone()
        far = [place for place, position in enumerate(packed_row.positions[-len(states) :]) if position > 60]
        states[far] *= 1.5
        return states

    monkeypatch.setattr(TargetOnly, "packed_hidden", forgetful)
    assert packs(tiny_models.causal("llama"), rows) == (max(map(len, rows)) <= 60)


def test_a_model_is_tried_again_for_longer_rows_and_not_for_shorter_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_models.causal("llama"), list[int]()
    own = TargetOnly.packed_hidden
    monkeypatch.setattr(TargetOnly, "packed_hidden", lambda *args: calls.append(1) or own(*args))
    monkeypatch.setattr("tunelift.fast.trials.TELLING", 40)
    for rows, expected in (([LONG[:50]], True), ([LONG[:30]], False), ([LONG], True)):
        calls.clear()
        assert packs(model, rows)
        assert bool(calls) == expected
    model.to(torch.bfloat16)
    calls.clear()
    assert packs(model)
    assert calls


def test_what_is_found_of_a_large_model_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(tried, "LARGE", 1)
    calls, own = list[int](), TargetOnly.packed_hidden
    monkeypatch.setattr(TargetOnly, "packed_hidden", lambda *args: calls.append(1) or own(*args))
    first, same, other = (tiny_models.causal("llama") for _ in range(3))
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    found = []
    for model in (first, same, other):
        calls.clear()
        view, _ = target_model(model)
        found.append((view.fast_paths, view.nats, bool(calls)))
    assert [tried_again for *_, tried_again in found] == [True, False, True]
    assert found[0][:2] == found[1][:2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_asked_in_float32_is_its_wide_copy(kind: str) -> None:
    model = tiny_models.causal(kind).to(torch.bfloat16)
    ids = torch.tensor([LONG[:20]])
    with torch.no_grad():
        before = model(ids).logits
        with in_float32(model):
            found = model(ids).logits
        assert torch.equal(model(ids).logits, before)
        expected = model.float()(ids).logits
    assert found.dtype == torch.float32
    assert apart(found, expected) < 0.1 * apart(before, expected)


def test_a_model_is_stock_for_a_while() -> None:
    model, undo = tiny_models.causal("llama"), Undo()
    undo.put(model.lm_head, lambda x: x)
    ours = model.lm_head.forward
    with stock():
        assert model(torch.tensor([[3, 4]])).logits.shape[-1] == model.config.vocab_size
    assert model.lm_head.forward is ours
    plain = asked_plainly(model, lambda ids: model(ids).logits[0], [[3, 4, 5]])
    assert plain.own[0].shape[-1] == model.config.vocab_size
    undo.all()
    assert "forward" not in vars(model.lm_head)
