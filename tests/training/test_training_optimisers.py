"""The optimisers beside AdamW: what they do is what their papers say."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
import transformers

import tiny_models
from tunelift.core.errors import InputError
from tunelift.training.optimisers import LORA_PLUS, OPTIMISERS, SMALL, TIMES, Adafactor, refuse_optimiser
from tunelift.training.state import Footprint, State

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra quantized is not installed"
)
SHAPES = (64, 100), (67, 101), (9,), (), (3, 1)


def test_adafactor_is_that_of_transformers_with_its_own_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (5, 7), (9,), (3, 1), ()
    begin = [torch.randn(shape, generator=generator) for shape in shapes]
    sides = [[torch.nn.Parameter(one.clone()) for one in begin] for _ in range(2)]
    ours = Adafactor(sides[0], lr=0.05, weight_decay=0.01)
    theirs = transformers.Adafactor(
        sides[1], lr=0.05, weight_decay=0.01, relative_step=False, scale_parameter=False, warmup_init=False
    )
    for _ in range(6):
        for number, shape in enumerate(shapes):
            gradient = torch.randn(shape, generator=generator) * 10.0**-number
            for side in sides:
                side[number].grad = gradient.clone()
        ours.step()
        theirs.step()
    for one, other in zip(*sides, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    kept = sum(tensor.numel() for state in ours.state.values() for tensor in state.values())
    assert kept == len(shapes) + (5 + 7) + 9 + (3 + 1) + 1


def test_lora_plus_moves_b_faster() -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    groups = State(model, 1e-3, 0.0, "lora-plus").optimiser.param_groups
    assert [group.get(TIMES, 1.0) for group in groups] == [1.0, LORA_PLUS]
    b = {id(p) for name, p in model.named_parameters() if "lora_B" in name}
    assert {id(p) for p in groups[1]["params"]} == b
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())
    with pytest.raises(InputError, match="has no LoRA's B"):
        State(torch.nn.Linear(2, 2), 1e-3, 0.0, "lora-plus")
    with pytest.raises(InputError, match=r"adapter\.method is ia3"):
        refuse_optimiser("lora-plus", "ia3")


def moved(name: str, steps: int, start: int = 0, known: Any = None) -> tuple[list[torch.Tensor], Any]:
    """Return parameters after steps with gradients of their own, among them a block that has none at first."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimiser = OPTIMISERS[name].build({str(i): p for i, p in enumerate(parameters)}, 1e-2, 0.01)
    if known is not None:
        optimiser.load_state_dict(optimiser.state_dict() | {"state": known[1]})
        for parameter, value in zip(parameters, known[0], strict=True):
            parameter.data.copy_(value)
    for step in range(steps):
        drawn = [0.1 * torch.randn(shape, generator=generator) for shape in SHAPES]
        if step >= start:
            for parameter, gradient in zip(parameters, drawn, strict=True):
                parameter.grad = gradient
            parameters[0].grad.view(-1)[:300] *= step > 2
            optimiser.step()
    return [p.detach() for p in parameters], optimiser.state_dict()["state"]


@needs_bitsandbytes
def test_eight_bits_go_where_adamw_goes_and_go_on_in_the_same_bytes() -> None:
    found, kept = moved("adamw-8bit", 20)
    exact, _ = moved("adamw", 20)
    begin, _ = moved("adamw", 0)
    for one, other, first in zip(found, exact, begin, strict=True):
        assert float((one - other).norm()) < 0.05 * float((other - first).norm())
    assert all(isinstance(tensor, torch.Tensor) for some in kept.values() for tensor in some.values())
    half, known = moved("adamw-8bit", 7)
    again, same = moved("adamw-8bit", 20, 7, (half, known))
    assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))
    assert all(torch.equal(same[i][key], kept[i][key]) for i in kept for key in kept[i])


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "lora-plus"])
def test_what_is_kept_is_what_is_planned(name: str) -> None:
    if name == "adamw-8bit":
        pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
    _, kept = moved(name, 1)
    steps = sum(some["step"].nbytes for some in kept.values())
    assert sum(one.nbytes for some in kept.values() for one in some.values()) - steps == sum(
        OPTIMISERS[name].keeps(shape) for shape in SHAPES
    )
    parameters = [torch.zeros(shape) for shape in SHAPES]
    both = Footprint.of(parameters), Footprint.of(parameters, optimiser=name)
    least = both[0].memory - both[0].moments["adamw"]
    assert both[1].memory == least + OPTIMISERS[name].keeps((64, 100)) + sum(
        OPTIMISERS[name].keeps(shape) for shape in SHAPES[1:]
    )
    assert OPTIMISERS["adamw-8bit"].keeps((SMALL,)) < OPTIMISERS["adamw-8bit"].keeps((SMALL - 1,))


def test_without_bitsandbytes_eight_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bitsandbytes is not installed(.|\n)*take adafactor"):
        refuse_optimiser("adamw-8bit", "lora")
