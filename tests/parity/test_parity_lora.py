"""Fused LoRA linears give the loss and the gradients of peft's own layers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_models
from tunelift.fast.lora import fused_lora

IDS = torch.arange(3, 35).view(4, 8)


def loss_and_gradients(model: Any) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_fused_equals_pefts_own(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind)).to(dtype)
    plain_loss, plain = loss_and_gradients(model)
    with fused_lora(model) as state:
        assert state.startswith("on") == (kind != "gpt2"), state
        fused_loss, fused = loss_and_gradients(model)
        with model.disable_adapter():
            base = model(input_ids=IDS).logits
    assert fused_loss == pytest.approx(plain_loss, rel=1e-5)  # stock losses are made in fp32
    assert float(plain.abs().max()) > 1e-3
    assert float((fused - plain).abs().max() / plain.abs().max()) < max(tolerance, 1e-6)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, base)
    assert loss_and_gradients(model)[0] == plain_loss  # and back again


def test_layers_with_inputs_of_their_own_are_not_run_together() -> None:
    class Crossed(torch.nn.Module):
        """Its query reads one tensor, its key and value another, as in cross-attention."""

        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(6, 5) for _ in range(3))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.q_proj(x) * self.k_proj(y) + self.v_proj(y)

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(Crossed(), config)
    x, y = torch.randn(2, 7, 6, requires_grad=True), torch.randn(2, 7, 6, requires_grad=True)
    plain = torch.autograd.grad(model(x, y).square().sum(), [x, y])
    with fused_lora(model):
        for _ in range(2):
            fused = torch.autograd.grad(model(x, y).square().sum(), [x, y])
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(plain, fused, strict=True))


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_more_than_plain_lora_keeps_pefts_forward(settings: dict[str, Any]) -> None:
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False, **settings)
    model = get_peft_model(tiny_models.causal("llama"), config).train()
    torch.manual_seed(0)
    plain_loss, plain = loss_and_gradients(model)
    torch.manual_seed(0)
    with fused_lora(model):
        loss, gradients = loss_and_gradients(model)
    assert (loss, True) == (plain_loss, torch.equal(gradients, plain))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "opt"])
def test_adapter_on_a_bfloat16_base_rounds_no_worse_than_pefts_own(kind: str) -> None:
    errors = torch.zeros(2)
    for seed in range(6):  # of one model alone either may be off by chance
        _, exact = loss_and_gradients(tiny_models.adapted(tiny_models.causal(kind, seed)))
        model = tiny_models.adapted(tiny_models.causal(kind, seed).bfloat16())
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        _, plain = loss_and_gradients(model)
        with fused_lora(model):
            _, fused = loss_and_gradients(model)
        assert not torch.equal(fused, plain)  # or peft's own ran
        errors += torch.tensor([float((found - exact).norm() / exact.norm()) for found in (fused, plain)])
    assert errors[0] < 1.25 * errors[1]


def test_under_autocast_pefts_own_runs() -> None:
    model = tiny_models.adapted(tiny_models.causal("llama"))
    found = []
    for fused in (False, True):
        with fused_lora(model) if fused else contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16):
            found.append(loss_and_gradients(model))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
