"""`tunelift.fast.apply` changes no result of a stock model under the user's own loop, and `restore` leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

import tiny_models
import tunelift

LENGTHS = [11, 7, 30, 30]


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny_models.VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    ids[3, :25] = ids[2, :25]
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    labels = ids.masked_fill((mask == 0) | (torch.arange(max(LENGTHS)) < 5), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", tiny_models.ARCHITECTURES)
def test_loss_gradients_and_logits_are_the_models_own(kind: str) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind, **tiny_models.NO_DROPOUT))
    model.train()
    inputs, count = batch(), 50
    stock = model(**inputs, num_items_in_batch=count)
    expected, logits = gradients(model, stock.loss), stock.logits.detach()
    before = {name: p.clone() for name, p in model.named_parameters()}
    states = tunelift.fast.apply(model)
    assert states["target_only_head"] == "on"
    assert (states["packing"] == "on") == (kind != "bloom")
    fast = model(**inputs, num_items_in_batch=count)
    assert set(fast.keys()) == {"loss"}
    found = gradients(model, fast.loss)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(fast.logits[mask], logits[mask], rtol=1e-4, atol=1e-4)
    plain = model(**inputs)
    assert float(plain.loss) == pytest.approx(float(model(**inputs, return_dict=True).loss))
    tunelift.fast.restore(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert torch.equal(model(**inputs, num_items_in_batch=count).loss, stock.loss)


def test_evaluation_and_generation_are_left_alone() -> None:
    model = tiny_models.adapted(tiny_models.causal("gemma3_text"))
    inputs = batch()
    stock = model(**inputs)
    answer = model.generate(input_ids=inputs["input_ids"][2:3], max_new_tokens=5, do_sample=False)
    tunelift.fast.apply(model)
    fast = model(**inputs)
    assert torch.allclose(fast.logits, stock.logits, atol=1e-5)
    assert fast.past_key_values is not None
    assert torch.equal(answer, model.generate(input_ids=inputs["input_ids"][2:3], max_new_tokens=5, do_sample=False))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "opt", "gpt2"])
def test_padding_on_the_left(kind: str) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind, **tiny_models.NO_DROPOUT)).train()
    inputs = {name: value.flip(1) for name, value in batch().items()}
    begins = inputs["attention_mask"].argmax(dim=1, keepdim=True)
    inputs["labels"] = inputs["labels"].scatter(1, begins, -100)  # nothing a row could be asked for
    stock = model(**inputs)
    expected = gradients(model, stock.loss)
    tunelift.fast.apply(model)
    fast = model(**inputs)
    found = gradients(model, fast.loss)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert (set(fast.keys()) == {"loss"}) == (kind != "gpt2")  # whose positions count the padding
    inputs["labels"][0, begins[0]] = 5
    assert set(model(**inputs).keys()) != {"loss"}
    mask = inputs["attention_mask"].bool()
    assert torch.allclose(fast.logits[mask], stock.logits[mask], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama", "gpt2"])
def test_classifiers_compute_without_padding(kind: str) -> None:
    base = tiny_models.classifier(["a", "b"], kind, **tiny_models.NO_DROPOUT)
    targets = ["q_lin", "lin1"] if kind == "distilbert" else "all-linear"
    model = get_peft_model(base, LoraConfig(target_modules=targets, task_type="SEQ_CLS", init_lora_weights=False))
    model.train()
    inputs = {k: v for k, v in batch().items() if k != "labels"} | {"labels": torch.tensor([0, 1, 1, 0])}
    if kind in ("llama", "gpt2"):
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 1)
    stock = model(**inputs)
    expected = gradients(model, stock.loss)
    states = tunelift.fast.apply(model)
    assert states["unpadded"] == "on", states
    fast = model(**inputs)
    assert torch.allclose(fast.logits, stock.logits, atol=1e-5)
    found = gradients(model, fast.loss)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    tunelift.fast.restore(model)
    assert torch.equal(model(**inputs).loss, stock.loss)


def test_trainer_takes_the_same_steps(tmp_path: Path) -> None:
    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {name: value[index % 4] for name, value in batch(index // 4).items()}

    def trained(fast: bool) -> tuple[list[float], Any]:
        model = tiny_models.adapted(tiny_models.causal("llama"))
        if fast:
            tunelift.fast.apply(model)
        arguments = TrainingArguments(
            str(tmp_path / str(fast)), per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=2,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, eval_strategy="epoch",
            gradient_checkpointing=fast,  # recomputes attention outside of the call
        )  # fmt: skip
        seen: list[Any] = []
        trainer = Trainer(
            model, arguments, train_dataset=Rows(), eval_dataset=Rows(),
            compute_metrics=lambda prediction: seen.append(prediction.predictions) or {},
        )  # fmt: skip
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], seen[-1]

    (stock, stock_logits), (fast, fast_logits) = trained(False), trained(True)
    assert fast == pytest.approx(stock, rel=1e-4)
    assert torch.allclose(torch.as_tensor(fast_logits), torch.as_tensor(stock_logits), atol=1e-3)


def test_modules_keep_the_mode_that_each_is_in() -> None:
    model = tiny_models.adapted(tiny_models.causal("gpt2")).train()
    base = model.get_base_model()
    base.transformer.drop.eval()  # somebody wants no dropout here
    modes = [module.training for module in model.modules()]
    tunelift.fast.apply(model)
    assert [module.training for module in model.modules()] == modes
    tunelift.fast.restore(model)
    assert [module.training for module in model.modules()] == modes
