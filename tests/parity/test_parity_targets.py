"""The target-only loss equals the model's own logits with a plain cross-entropy: loss and every adapter gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import tiny_models
from tunelift.fast.targets import IGNORED, TargetOnly, WholeLogits, target_model

FAST = dict.fromkeys(tiny_models.ARCHITECTURES, True)
"""Architecture by lever: all of them are seen through their targets."""


def batch(lengths: list[int], targets_from: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    width = max(lengths)
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(3, tiny_models.VOCABULARY, (len(lengths), width), generator=generator)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for i, (length, start) in enumerate(zip(lengths, targets_from, strict=True)):
        mask[i, :length] = 1
        labels[i, start:length] = ids[i, start:length]
    return {"input_ids": ids, "attention_mask": mask}, labels


def loss_and_gradients(view: Any, model: Any, inputs: Any, labels: Any) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = view.loss_sum(inputs, labels)
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return float(loss), torch.cat(gradients)


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_loss_and_gradients_equal_the_plain_twin(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind)).to(dtype)
    view, state = target_model(model)
    assert (state == "on") == FAST[kind], state
    inputs, labels = batch([11, 7, 9], [4, 1, 9])  # the last row has no target
    fast_loss, fast = loss_and_gradients(view, model, inputs, labels)
    plain_loss, plain = loss_and_gradients(WholeLogits(model), model, inputs, labels)
    assert fast_loss == pytest.approx(plain_loss, rel=tolerance)
    assert float(plain.abs().max()) > 1e-3
    assert float((fast - plain).abs().max() / plain.abs().max()) < tolerance


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=5))
def test_any_shape_of_rows(rows: list[tuple[int, int]]) -> None:
    model = tiny_models.causal("gemma2").double()
    inputs, labels = batch([length for length, _ in rows], [min(start, length) for length, start in rows])
    view = TargetOnly(model)
    found = view.log_likelihoods(inputs, labels)
    assert torch.allclose(found, WholeLogits(model).log_likelihoods(inputs, labels), atol=1e-9)
    assert float(view.loss_sum(inputs, labels)) == pytest.approx(-float(found.sum()), abs=1e-8)


def test_many_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.adapted(tiny_models.causal("gemma2")).double()
    inputs, labels = batch([12, 12], [0, 0])
    one = loss_and_gradients(TargetOnly(model), model, inputs, labels)
    monkeypatch.setattr("tunelift.fast.targets.LOGITS_BYTES", 4 * tiny_models.VOCABULARY * 3)
    many = loss_and_gradients(TargetOnly(model), model, inputs, labels)
    assert many[0] == pytest.approx(one[0], rel=1e-12)
    assert torch.allclose(many[1], one[1], atol=1e-12)


def test_trainable_head_gets_its_gradient() -> None:
    model = tiny_models.causal("llama", tie_word_embeddings=False).double()
    inputs, labels = batch([9, 5], [2, 1])
    fast = loss_and_gradients(TargetOnly(model), model, inputs, labels)
    plain = loss_and_gradients(WholeLogits(model), model, inputs, labels)
    assert torch.allclose(fast[1], plain[1], atol=1e-10)
    assert model.lm_head.weight.grad.abs().max() > 0


def test_a_model_whose_logits_differ_falls_back() -> None:
    model = tiny_models.causal("llama")
    forward = model.forward

    def other(**inputs: Any) -> Any:
        output = forward(**inputs)
        output.logits = F.relu(output.logits)
        return output

    model.forward = other
    view, state = target_model(model)
    assert isinstance(view, WholeLogits)
    assert state == "off: the head's logits are not the model's own"
