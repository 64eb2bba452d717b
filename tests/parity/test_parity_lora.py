"""Fused LoRA linears give the loss and the gradients of peft's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_models
from tunelift.fast.lora import fused_lora

IDS = torch.arange(3, 35).view(4, 8)

FUSES = {kind: kind not in ("gpt2",) for kind in tiny_models.ARCHITECTURES}
"""Architecture by lever: GPT-2 has Conv1D layers, which keep peft's own forward."""


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
        assert state.startswith("on") == FUSES[kind], state
        fused_loss, fused = loss_and_gradients(model)
        with model.disable_adapter():
            base = model(input_ids=IDS).logits
    assert fused_loss == pytest.approx(plain_loss, rel=1e-5)  # stock losses are made in fp32
    assert float(plain.abs().max()) > 1e-3
    assert float((fused - plain).abs().max() / plain.abs().max()) < max(tolerance, 1e-6)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, base)
    assert loss_and_gradients(model)[0] == plain_loss  # and back again


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


def test_half_precision_base_keeps_pefts_fp32_adapter() -> None:
    model = tiny_models.adapted(tiny_models.causal("llama").bfloat16())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    plain_loss, plain = loss_and_gradients(model)
    with fused_lora(model):
        loss, gradients = loss_and_gradients(model)
    assert loss == plain_loss
    assert torch.equal(gradients, plain)
