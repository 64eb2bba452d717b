"""The target-only loss equals the model's own logits with a plain cross-entropy: loss and every adapter gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import tiny_models
from tunelift.fast import block_attention
from tunelift.fast.head import TILE, Head
from tunelift.fast.packed_rows import pack
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.targets import IGNORED
from tunelift.fast.whole_logits import WholeLogits

BEGINNING = list(range(3, 23))
"""Tokens that rows share, more than it takes to share them."""


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


def row_by_row(view: Any, model: Any, inputs: Any, labels: Any) -> tuple[float, torch.Tensor]:
    """The plain twin without padding: eager attention casts to fp32, where what is masked changes the rounding."""
    found = []
    for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        row = {name: value[i : i + 1, :length] for name, value in inputs.items()}
        found.append(loss_and_gradients(view, model, row, labels[i : i + 1, :length]))
    return sum(loss for loss, _ in found), torch.stack([gradients for _, gradients in found]).sum(dim=0)


@pytest.fixture(params=[False, True], ids=["torch's attention", "attention in C"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether blocks may be attended by the kernels, where there are any."""
    if not request.param:
        monkeypatch.setattr(block_attention, "SCORES_AT_MOST", 0)
    return bool(request.param)


@pytest.mark.parametrize("window", [64, 8])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_loss_and_gradients_equal_the_plain_twin(
    kind: str, dtype: torch.dtype, tolerance: float, shared: bool, window: int, compiled: bool
) -> None:
    windowed = "sliding_window" in tiny_models.ARCHITECTURES[kind]
    if window == 8 and not windowed:
        pytest.skip("this architecture has no window")
    if compiled and dtype == torch.float64:
        pytest.skip("the kernels are for float32 and bfloat16")
    changes = {"sliding_window": window} if windowed else {}
    model = tiny_models.adapted(tiny_models.causal(kind, **changes)).to(dtype)
    view, _ = target_model(model)
    view.frozen.skip_below = 0.0
    inputs, labels = batch([11, 7, 9, 12], [4, 1, 9, 5])  # the third row has no target
    if shared:
        inputs = {name: torch.cat([begun(name, 4), tensor], dim=1) for name, tensor in inputs.items()}
        labels = torch.cat([torch.full((4, len(BEGINNING)), IGNORED), labels], dim=1)
    fast_loss, fast = loss_and_gradients(view, model, inputs, labels)
    twin = row_by_row if view.packs else loss_and_gradients
    plain_loss, plain = twin(WholeLogits(model), model, inputs, labels)
    if shared and dtype == torch.float64:  # norms cast to fp32: a shared token's gradients are summed before they do
        tolerance = 5e-7
    assert fast_loss == pytest.approx(plain_loss, rel=tolerance)
    assert float(plain.abs().max()) > 1e-3
    assert float((fast - plain).abs().max() / plain.abs().max()) < tolerance


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "opt"])
def test_half_precision_rounds_no_worse_than_the_plain_twin(kind: str, compiled: bool) -> None:
    exact = tiny_models.adapted(tiny_models.causal(kind))
    inputs, labels = batch([11, 7, 9], [4, 1, 2])
    _, expected = loss_and_gradients(WholeLogits(exact), exact, inputs, labels)
    rough = tiny_models.adapted(tiny_models.causal(kind)).bfloat16()
    view, _ = target_model(rough)
    errors = []
    for way in (view, WholeLogits(rough)):
        _, found = loss_and_gradients(way, rough, inputs, labels)
        errors.append(float((found.float() - expected).norm() / expected.norm()))
    assert errors[0] < max(0.05, 1.5 * errors[1])


def begun(name: str, rows: int) -> torch.Tensor:
    values = BEGINNING if name == "input_ids" else [1] * len(BEGINNING)
    return torch.tensor([values] * rows)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=5),
    st.lists(st.integers(0, 40), min_size=5, max_size=5),
)
def test_any_shape_of_rows(rows: list[tuple[int, int]], shared: list[int]) -> None:
    model = tiny_models.causal("gemma3_text", sliding_window=8).double()
    inputs, labels = batch([length for length, _ in rows], [min(start, length) for length, start in rows])
    for i, (length, _) in enumerate(rows):  # each begins as the first row does, more or less far
        same = min(shared[i], length, rows[0][0])
        inputs["input_ids"][i, :same] = inputs["input_ids"][0, :same]
        labels[i, :same] = torch.where(labels[i, :same] == IGNORED, IGNORED, inputs["input_ids"][i, :same])
    view, _ = target_model(model)
    found = view.log_likelihoods(inputs, labels)
    assert torch.allclose(found, WholeLogits(model).log_likelihoods(inputs, labels), atol=1e-9)
    assert float(view.loss_sum(inputs, labels)) == pytest.approx(-float(found.sum()), abs=1e-8)


def test_what_is_skipped_is_bounded() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(30_000, 16, dtype=torch.float64), torch.randn(150, 16, dtype=torch.float64) * 3
    targets = torch.randint(0, 30_000, (150,))
    gradients = []
    for below, ordered in ((0.0, False), (0.0, True), (1e-3, True)):
        head = Head(weight, skip_below=below)
        if ordered:
            head.order_by(hidden[:10])
        rows = hidden.clone().requires_grad_()
        head.loss_sum(rows, targets).backward()
        gradients.append(rows.grad)
    logits = (leaf := hidden.clone().requires_grad_()) @ weight.t()
    F.cross_entropy(logits, targets, reduction="sum").backward()
    assert leaf.grad is not None
    for whole in gradients[:2]:
        assert torch.allclose(whole, leaf.grad, atol=1e-9)
    assert 0 < head.kept < head.pairs
    tiles = math.ceil(30_000 / TILE)
    bound = tiles * 1e-3 * weight.norm(dim=1).max()
    assert 0 < float((gradients[2] - leaf.grad).norm(dim=1).max()) < float(bound)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_packed_row_does_not_feel_its_neighbours(kind: str) -> None:
    view, _ = target_model(tiny_models.causal(kind))
    inputs, labels = batch([11, 7, 9], [4, 1, 2])
    before = view.log_likelihoods(inputs, labels)
    inputs["input_ids"][1, :7] = torch.arange(30, 37)
    labels[1, 1:7] = inputs["input_ids"][1, 1:7]
    after = view.log_likelihoods(inputs, labels)
    others = torch.tensor([True] * 7 + [False] * 6 + [True] * 7)
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_row_in_training_does_not_feel_its_neighbours(kind: str, compiled: bool) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind)).train()
    view, _ = target_model(model)
    inputs, labels = batch([11, 7, 9], [4, 1, 2])
    before, _, _ = view.at_targets(inputs, labels)
    inputs["input_ids"][1, 2:7] = torch.arange(30, 35)
    after, _, _ = view.at_targets(inputs, labels)
    others = torch.tensor([True] * 7 + [False] * 6 + [True] * 7)
    assert before.requires_grad
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


def test_preference_pairs_share_their_prompts() -> None:
    prompts = [[*range(3, 30)], [*range(50, 80)]]
    rows = [[*prompt, *answer] for prompt in prompts for answer in ([7, 8, 9], [9, 8])]
    packed_row = pack(rows, [len(rows[i]) - 4 for i in range(4)])
    assert [len(block.before) for block in packed_row.blocks] == [0, 1, 1, 0, 1, 1]
    assert len(packed_row.ids) == sum(map(len, rows)) - 25 - 28
    for row, places in zip(rows, packed_row.rows, strict=True):
        assert [packed_row.ids[p] for p in places] == row
        assert [packed_row.positions[p] for p in places] == list(range(len(row)))


def test_scores_are_soft_capped_only_where_the_models_own_attention_does_it() -> None:
    model = tiny_models.causal("gemma2")
    model.config._attn_implementation = "sdpa"
    inputs, labels = batch([30, 22], [10, 12])
    try:
        expected = row_by_row(WholeLogits(model), model, inputs, labels)
    except ValueError as error:
        pytest.skip(f"this version of transformers refuses: {error}")
    view, _ = target_model(model)
    assert view.fast_paths["packing"] == "on"
    loss, gradients = loss_and_gradients(view, model, inputs, labels)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert float((gradients - expected[1]).abs().max() / expected[1].abs().max()) < 1e-5


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
