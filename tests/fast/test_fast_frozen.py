"""Products with frozen weights, packed and not, against torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny_models
from tunelift.core import machine
from tunelift.fast import frozen
from tunelift.fast.frozen import Ways, Weight, frozen_products
from tunelift.fast.undo import Undo
from tunelift.fast.unpad import sped_up

IDS = torch.arange(3, 35).view(4, 8)
here = pytest.mark.skipif(not frozen._here(), reason="torch has no oneDNN here")


def gradients(model: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@here
@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["none", "forward", "both"]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_products_are_those_of_torch(n: int, inputs: int, outputs: int, ways: Ways, dtype: Any, biased: bool) -> None:
    own = torch.Generator().manual_seed(n * inputs + outputs)
    layer = nn.Linear(inputs, outputs, bias=biased).requires_grad_(False).to(dtype)
    x, dy, onto = (torch.randn(n, size, generator=own).to(dtype) for size in (inputs, outputs, inputs))
    weight = Weight(layer)
    weight.pack(ways)
    exact = layer.weight.double()
    bias = 0 if layer.bias is None else layer.bias.double()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for found, expected in (
        (weight.of(x), x.double() @ exact.t() + bias),
        (weight.back(dy), dy.double() @ exact),
        (weight.back(dy, onto.clone()), dy.double() @ exact + onto.double()),
        (frozen.linear(x, layer.weight, layer.bias), x.double() @ exact.t() + bias),
        (frozen.product(dy, layer.weight), dy.double() @ exact),
    ):
        assert found.dtype == dtype
        assert float((found.double() - expected).norm()) <= tolerance * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("ways", ["none", "both"])
def test_loss_and_gradients_are_those_without(kind: str, ways: Ways) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind), lora_dropout=0.0)
    plain_loss, plain = gradients(model)
    undo = Undo()
    state = frozen_products(model, undo, ways)
    packed = ways == "both" and frozen.frozen_weights(model)  # of GPT-2's layers only the head is a linear one
    assert not frozen._here() or state.endswith("packed (both)" if packed else "layers")
    loss, found = gradients(model)
    undo.all()
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert found.keys() == plain.keys()
    assert all(float((found[n] - plain[n]).norm()) <= 1e-5 * float(plain[n].norm()) + 1e-7 for n in plain)
    assert not any({"frozen", "forward"} & set(vars(module)) for module in model.modules())
    assert gradients(model)[0] == plain_loss


def test_a_layer_that_learns_keeps_its_gradient() -> None:
    model = tiny_models.causal("llama")
    plain_loss, plain = gradients(model)
    for ways in ("none", "both", "forward"):
        with sped_up(model, ways):
            loss, found = gradients(model)
        assert loss == pytest.approx(plain_loss, rel=1e-5)
        assert found.keys() == plain.keys()
        assert all(torch.allclose(found[name], plain[name], rtol=1e-3, atol=1e-5) for name in plain)


@here
def test_only_what_does_not_learn_is_packed_and_all_of_it_where_nothing_does() -> None:
    model = tiny_models.causal("llama")
    with sped_up(model, "both") as states:
        assert states["frozen_products"] == "off: the model has no frozen linear layers"
    with sped_up(model, "forward") as states:
        assert states["frozen_products"] == "on: 22 layers, 21 of them packed (forward)"
    adapted = tiny_models.adapted(model).requires_grad_(False)
    with sped_up(adapted, "forward") as states:  # an adapter's own layers are not among them
        assert states["frozen_products"] == "on: 22 layers, 21 of them packed (forward)"


@here
def test_weights_that_were_changed_are_not_taken_from_a_copy() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4)).requires_grad_(False)
    x, undo = torch.randn(3, 8), Undo()
    frozen_products(model, undo, "both")
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[1].weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    model[1].bias = nn.Parameter(torch.ones(4), requires_grad=False)
    expected = F.linear(F.linear(x, model[0].weight, model[0].bias), torch.ones(4, 4), torch.ones(4))
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert torch.allclose(copy.deepcopy(model[1])(torch.ones(1, 4)), torch.full((1, 4), 5.0))


@here
def test_copies_that_take_too_much_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(8, 4)).requires_grad_(False)
    monkeypatch.setattr(machine, "usable_bytes", lambda: 8 * model[0].weight.nbytes)
    undo = Undo()
    assert frozen_products(model, undo, "forward") == "on: 1 layers, 1 of them packed (forward)"
    undo.all()
    assert frozen_products(model, undo, "both") == "on: 1 layers"
    undo.all()
    monkeypatch.setattr(machine, "usable_bytes", lambda: None)
    assert frozen_products(model, undo, "forward") == "on: 1 layers"
    undo.all()


def test_without_onednn_all_is_as_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_found", [False])
    model = tiny_models.adapted(tiny_models.causal("llama"))
    with sped_up(model, "both") as states:
        assert states["frozen_products"] == "off: they are for float32 and bfloat16 on an x86 CPU"
        loss, _ = gradients(model)
    assert loss == pytest.approx(gradients(model)[0], rel=1e-5)
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    assert torch.equal(frozen.linear(x, weight), x @ weight.t())
    assert torch.equal(frozen.product(x @ weight.t(), weight), x @ weight.t() @ weight)


@here
def test_a_head_is_packed_for_many_rows_and_one_row_goes_plain() -> None:
    model, undo = tiny_models.causal().requires_grad_(False).eval(), Undo()
    frozen_products(model, undo, "forward")
    head = model.get_output_embeddings()
    weight = frozen.weight_of(head)
    assert weight.packed is None
    assert frozen.pack_head(model) == ", the head packed"
    assert weight.packed is not None
    x = torch.randn(3, head.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(head(x), F.linear(x, head.weight, head.bias), atol=1e-5)
        assert torch.equal(head(x[:1]), F.linear(x[:1], head.weight, head.bias))
    undo.all()
    assert "frozen" not in vars(head)


@here
def test_a_head_that_does_not_fit_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, undo = tiny_models.causal().requires_grad_(False).eval(), Undo()
    frozen_products(model, undo, "none")
    monkeypatch.setattr(machine, "usable_bytes", lambda: 100)
    assert frozen.pack_head(model) == ""
    undo.all()
