"""The optimisers beside AdamW: what they do is what their papers say."""

from __future__ import annotations

import pytest
import torch
import transformers

import tiny_models
from tunelift.core.errors import InputError
from tunelift.training.optimisers import LORA_PLUS, TIMES, Adafactor, refuse_optimiser
from tunelift.training.state import State


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
