"""Products in int8 are taken where the first rows learn the same, and refused where they cannot be had."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_fast_kernels import compiled

import tiny_models
from tunelift import fast
from tunelift.config.schema import TrainSection
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.fast import int8_trial
from tunelift.fast.classifying import ClassLogits
from tunelift.fast.frozen import Weight, frozen_weights
from tunelift.fast.int8 import Int8Tiles, Int8Weight
from tunelift.fast.unpad import sped_up
from tunelift.tasks import TASKS
from tunelift.training.run import refuse_products, train

ROWS = [Example(str(i), f"what is {i}", f" it is {i % 3}") for i in range(12)]


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return tiny_models.adapted(tiny_models.causal("llama"))


def taken(model: Any) -> tuple[str, dict[str, Weight]]:
    """Try int8 on some rows; return what became of it, and the weights."""
    task = TASKS.get("causal-lm")
    rows, _ = task.rows(ROWS, tiny_models.tokenizer(), 64, [])
    with sped_up(model):
        batch = task.collate(rows, 0, model.device)
        loss, _ = task.loss(model, batch)
        return int8_trial.take(model, partial(loss, batch)), frozen_weights(model)


@compiled
def test_frozen_products_are_in_int8_where_the_first_rows_learn_the_same(model: Any) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state, weights = taken(model)
    assert state.startswith(f"on: {len(weights)} layers")
    assert all(weight.eight is not None for weight in weights.values())
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


@compiled
def test_a_layer_whose_product_differs_stays_wide_by_name(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = model.get_submodule("base_model.model.model.layers.1.self_attn.o_proj").base_layer.weight
    made = Int8Weight.__init__

    def make(self: Int8Weight, weight: torch.Tensor, *rest: Any) -> None:
        made(self, weight.roll(1, 0) if weight is wrong else weight, *rest)

    monkeypatch.setattr(Int8Weight, "__init__", make)
    state, weights = taken(model)
    assert "; wide, as their products would differ: " in state
    assert "layers.1.self_attn.o_proj" in state
    assert sum(weight.eight is None for weight in weights.values()) == 1


@compiled
def test_what_learns_something_else_is_off(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    back = Int8Weight.back
    monkeypatch.setattr(Int8Weight, "back", lambda self, dy, onto=None: back(self, -dy, onto))
    state, weights = taken(model)
    assert state.startswith("off: in eight bits the gradient differs (cosine ")
    monkeypatch.setattr(Int8Weight, "of", lambda self, x: x.new_zeros(len(x), self.forward.out))
    assert taken(model)[0] == "off: no layer computes the same in eight bits"
    monkeypatch.setattr(int8_trial, "PRODUCT", 2.0)
    assert taken(model)[0].startswith("off: in eight bits the loss is")
    assert all(weight.eight is None and weight.tiles is None for weight in weights.values())


@compiled
def test_a_training_in_int8_learns_as_the_plain_one(model: Any) -> None:
    if int8_trial.refused(model):
        pytest.skip("this processor has no products in int8")
    losses: dict[str, list[float]] = {"int8": [], "float32": []}
    for products, told in losses.items():
        torch.manual_seed(0)
        tuned = tiny_models.adapted(tiny_models.causal("llama"))
        done = train(
            tuned, tiny_models.tokenizer(), TASKS.get("causal-lm"), {"train": ROWS},
            TrainSection(steps=6, batch_size=4, learning_rate=1e-2, products=products),
            listeners=[lambda event, told=told, **facts: told.append(facts["loss"]) if event == "train" else None],
        )  # fmt: skip
        assert done.fast_paths["int8_products"].startswith("on" if products == "int8" else "no")
    assert losses["int8"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["int8"] != losses["float32"]


@pytest.mark.parametrize(
    ("products", "said"), [("bfloat16", "the model runs in float32"), ("int8", "are for float32 and bfloat16 on a CPU")]
)
def test_what_cannot_be_had_is_refused(products: Any, said: str, model: Any) -> None:
    model = model.double() if products == "int8" else model
    with pytest.raises(InputError, match=f"train.products is {products}, and .*{said}"):
        refuse_products(model, TrainSection(products=products), TASKS.get("causal-lm"))


@compiled
def test_a_copy_of_a_weight_has_no_eight_bits_of_the_first(model: Any) -> None:
    _, weights = taken(model)
    weight = next(iter(weights.values()))
    weight.eight, weight.tiles = Int8Weight(weight.plain, None), Int8Tiles()
    copied = deepcopy(weight)
    assert copied.eight is copied.tiles is None


def test_rows_without_a_gradient_are_off() -> None:
    assert "no gradient" in str(int8_trial._apart((1.0, {}), (1.0, {})))


@compiled
def test_auto_leaves_small_layers_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_trial, "refused", lambda model: None)
    with sped_up(model):
        assert int8_trial.worth(model, 64) == "no: the model's layers are too small for it"


@compiled
def test_a_short_training_does_not_try(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(int8_trial, "worth", lambda model, tokens: asked.append(tokens) or "no: it was asked")
    for steps, said in ((2, "too short"), (200, "it was asked")):
        if steps == 200:
            monkeypatch.setattr("tunelift.training.run.fit", lambda *_, **__: None)
        settings = TrainSection(steps=steps, batch_size=4)
        done = train(model, tiny_models.tokenizer(), TASKS.get("causal-lm"), {"train": ROWS}, settings)
        assert said in done.fast_paths["int8_products"]
    assert len(asked) == 1


@compiled
def test_validation_is_not_measured_in_eight_bits(model: Any) -> None:
    if int8_trial.refused(model):
        pytest.skip("this processor has no products in int8")
    _, weights = taken(model)
    assert all(weight.is_eight for weight in weights.values() if weight.eight)
    with sped_up(model):
        frozen = frozen_weights(model)
        for weight in frozen.values():
            weight.eight = Int8Weight(weight.plain, None)
        with int8_trial.wide(model):
            assert not any(weight.is_eight for weight in frozen.values())
        assert all(weight.is_eight for weight in frozen.values())


@compiled
def test_a_loop_of_ones_own_learns_in_eight_bits_and_measures_as_before(model: Any) -> None:
    if int8_trial.refused(model):
        pytest.skip("this processor has no products in int8")
    task = TASKS.get("causal-lm")
    batch = task.collate(task.rows(ROWS, tiny_models.tokenizer(), 64, [])[0], 0, model.device)
    asked = {**batch.inputs, "labels": batch.labels}
    stock = model.eval()(**batch.inputs).logits
    losses, measured = {}, {}
    for products in (None, "int8"):
        states = fast.apply(model, products=products)  # type: ignore[arg-type]
        losses[products] = float(model.train()(**asked).loss)
        measured[products] = model.eval()(**batch.inputs).logits
    assert states["int8_products"].startswith("on")
    assert losses["int8"] == pytest.approx(losses[None], rel=0.01)
    assert losses["int8"] != losses[None]
    assert torch.equal(measured["int8"], measured[None])
    model.train()(**asked).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    fast.restore(model)
    assert torch.equal(model.eval()(**batch.inputs).logits, stock)
    with pytest.raises(InputError, match="products is 'int4'"):
        fast.apply(model, products="int4")  # type: ignore[arg-type]


@compiled
def test_whether_a_model_reads_padding_is_not_asked_in_eight_bits() -> None:
    torch.manual_seed(0)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    model = get_peft_model(tiny_models.classifier(["a", "b"]), config)
    with sped_up(model):
        logits = ClassLogits(model, [[5, 6, 7], [5, 6]])
        rows = torch.tensor([[5, 6, 7], [7, 6, 5]])
        mask = torch.ones_like(rows)
        state = int8_trial.take(model, lambda: logits({"input_ids": rows, "attention_mask": mask}).logsumexp(1).sum())
        assert state.startswith("on"), state
        longer = torch.arange(4, 24).repeat(2, 1)
        logits({"input_ids": longer, "attention_mask": torch.ones_like(longer)})  # rows of a length not tried before
        assert not logits.alone
        assert any(weight.eight is not None for weight in int8_trial.weights_of(model))
