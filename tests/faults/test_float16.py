"""float16: gradients too small for it are scaled, too large ones less so; a training cut off goes on exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_trainings import Watched, cut_off, fingerprint, trained

import tiny_models
from tunelift.core.errors import TuneliftError
from tunelift.tasks.base import Batch
from tunelift.training import state as states
from tunelift.training.state import LossScale, State


def adapted(dtype: torch.dtype, head: float = 1.0, adapter: torch.dtype = torch.float32) -> Any:
    """Return a tiny model in a dtype whose head's weights are `head` times as large, and its gradient with them."""
    model = tiny_models.adapted(tiny_models.causal("llama", tie_word_embeddings=False))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(head)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(adapter if "lora" in name else dtype)
    return model


def norms(model: Any, **settings: Any) -> list[float]:
    found: list[float] = []
    trained(
        None, [lambda event, **f: found.append(f["gradient_norm"]) if event == "train" else None], model, **settings
    )
    return found


@pytest.mark.parametrize("adapter", [torch.float32, torch.float16])
def test_gradients_that_float16_cannot_hold_are_those_of_float32(adapter: torch.dtype) -> None:
    expected = norms(adapted(torch.float32, 1e-4), learning_rate=1e-4)
    assert max(expected) < 1e-3  # in all: one number of it is a thousandth of that
    assert norms(adapted(torch.float16, 1e-4, adapter), learning_rate=1e-4) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("adapter", [torch.float32, torch.float16])
def test_losses_in_float16_are_those_of_float32(adapter: torch.dtype) -> None:
    (expected, _), (found, _) = (
        trained(None, model=adapted(*how)) for how in ((torch.float32,), (torch.float16, 1.0, adapter))
    )
    assert found.fit.losses == pytest.approx(expected.fit.losses, rel=0.01)
    assert expected.fit.losses[-1] < expected.fit.losses[0] - 0.5


def larger(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
    return loss * 1e4


def told(into: list[dict[str, Any]]) -> Any:
    """Return a listener that notes the faults."""
    return lambda event, **figures: into.append(figures) if event == "fault" else None


def test_a_gradient_too_large_for_float16_halves_the_scale_and_loses_no_step() -> None:
    faults: list[dict[str, Any]] = []
    task = Watched(larger)
    (expected, _) = trained(None, model=adapted(torch.float32), task=task)
    done, adapter = trained(None, [told(faults)], adapted(torch.float16), task)
    assert 3 <= len(faults) < 16
    for halved, fault in enumerate(faults, start=1):
        assert fault["done"] == f"{2**16 / 2**halved:g} times from here on, and the window computed again"
    assert faults[0]["step"] == 1
    assert done.fit.skipped == 0
    assert done.fit.losses == pytest.approx(expected.fit.losses, rel=0.01)
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())


def test_a_gradient_that_no_scale_mends_ends_the_training() -> None:
    def broken(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        return loss + (loss * 0).sqrt()  # finite, and its gradient is not

    with pytest.raises(TuneliftError, match="Not one of 10 steps"):
        trained(None, model=adapted(torch.float16), task=Watched(broken), steps=40)


def test_a_loss_that_is_no_number_leaves_the_scale() -> None:
    number = itertools.count()

    def poisoned(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        return loss * float("nan") if next(number) == 0 else loss

    faults: list[dict[str, Any]] = []
    trained(None, [told(faults)], adapted(torch.float16), Watched(poisoned))
    assert [fault["done"] for fault in faults] == ["the step was skipped"]


@pytest.mark.parametrize("adapter", [torch.float32, torch.float16])
def test_cut_off_while_the_scale_changes_it_ends_in_the_same_bytes(
    adapter: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "STEPS_TO_DOUBLE", 3)
    how: dict[str, Any] = {"task": Watched(larger)}
    faults: list[dict[str, Any]] = []
    whole, expected = trained(None, [told(faults)], adapted(torch.float16, 1.0, adapter), **how)
    assert len({fault["step"] for fault in faults}) > 1  # halved, doubled and halved again
    for after in range(len(faults), len(faults) + 12, 3):
        folder = tmp_path / str(after)
        cut_off(folder, after, model=adapted(torch.float16, 1.0, adapter), **how)
        again, same = trained(folder, model=adapted(torch.float16, 1.0, adapter), **how)
        assert again.fit.losses == whole.fit.losses, after
        assert fingerprint(same) == fingerprint(expected), after


def test_the_scale_is_in_the_state_and_only_float16_has_one() -> None:
    state = State(torch.nn.Linear(2, 2).half(), 0.1, 0.0)
    assert state.scale.value == 2**16
    assert state.scale.lowered()
    state.scale.fitted()
    again = State(torch.nn.Linear(2, 2).half(), 0.1, 0.0)
    again.put_back(state.tensors(), json.loads(json.dumps(state.facts())))
    assert again.scale == LossScale(2.0**15, False, 1)
    for dtype in (torch.float32, torch.bfloat16):
        model = torch.nn.Linear(2, 2).to(dtype)
        assert LossScale.of(model) == LossScale(1.0, True)
        assert not LossScale.of(model).lowered()
    with torch.autocast("cpu", torch.float16):
        assert LossScale.of(torch.nn.Linear(2, 2)).value == 2**16
    with torch.autocast("cpu", torch.bfloat16):
        assert LossScale.of(torch.nn.Linear(2, 2)).value == 1


def test_the_scale_doubles_after_steps_that_fit_and_no_further_than_float32_reaches() -> None:
    found = LossScale(2.0**23, False)
    for _ in range(3 * states.STEPS_TO_DOUBLE):
        found.fitted()
    assert found == LossScale(2.0**24, False)
    fixed = LossScale(1.0, True)
    for _ in range(states.STEPS_TO_DOUBLE):
        fixed.fitted()
    assert fixed.value == 1
