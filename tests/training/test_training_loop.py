"""The step, its batches and the loop: with toys, and with a tiny model."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from torch import nn

import tiny_models
from tunelift.adapters.methods import Method
from tunelift.config.schema import TrainSection
from tunelift.core.errors import TuneliftError
from tunelift.core.records import Example
from tunelift.core.registry import Registry
from tunelift.tasks.base import TASKS, Batch
from tunelift.training.batches import Sizes, micro_batches, plan_steps
from tunelift.training.loop import fit, learning_rate
from tunelift.training.run import train
from tunelift.training.step import train_step

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(lengths, st.integers(1, 9), st.integers(1, 300), st.integers(1, 3))
def test_every_epoch_visits_every_row_once(rows: list[int], batch: int, tokens: int, epochs: int) -> None:
    plan = plan_steps(Sizes(rows), batch, epochs, None, 0, tokens)
    per_epoch = -(-len(rows) // batch)
    assert len(plan) == per_epoch * epochs
    for epoch in range(epochs):
        seen = itertools.chain.from_iterable(itertools.chain(*plan[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert sorted(seen) == list(range(len(rows)))


@given(lengths, st.integers(1, 300))
def test_micro_batches_keep_to_the_budget(rows: list[int], tokens: int) -> None:
    for group in micro_batches(range(len(rows)), Sizes(rows), tokens):
        assert len(group) == 1 or max(rows[i] for i in group) * len(group) <= tokens


@given(lengths, st.integers(1, 300), st.integers(0, 20))
def test_packed_micro_batches_keep_to_the_budget_and_are_as_few_as_can_be_filled(
    rows: list[int], tokens: int, shared: int
) -> None:
    groups = micro_batches(range(len(rows)), Sizes(rows, shared, packs=True), tokens)
    assert sorted(itertools.chain(*groups)) == list(range(len(rows)))
    assert all(len(group) == 1 or shared + sum(rows[i] for i in group) <= tokens for group in groups)
    filled: list[int] = []  # the plain way: longest first, into the last group
    for size in sorted(rows, reverse=True):
        if filled and shared + filled[-1] + size <= tokens:
            filled[-1] += size
        else:
            filled.append(size)
    assert len(groups) == len(filled)


def test_packed_micro_batches_are_of_about_one_size() -> None:
    groups = micro_batches(range(8), Sizes([100, 130, 110, 90, 120, 100, 140, 110], packs=True), 720)
    assert sorted(sum([100, 130, 110, 90, 120, 100, 140, 110][i] for i in group) for group in groups) == [
        400,
        500,
    ]  # not 700 and 200


def test_the_order_is_a_function_of_the_seed_and_differs_by_epoch() -> None:
    first, again, other = (plan_steps(Sizes([5] * 16), 4, 2, None, seed, 99) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:4] != first[4:]


def test_steps_override_epochs_and_fractions_are_allowed() -> None:
    assert len(plan_steps(Sizes([5] * 16), 4, 9, 3, 0, 99)) == 3
    assert len(plan_steps(Sizes([5] * 16), 4, 0.5, None, 0, 99)) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_micro_batches_of_one_equal_a_batch_of_eight(dtype: torch.dtype, tolerance: float) -> None:
    model = tiny_models.adapted(tiny_models.causal("llama")).to(dtype)
    task, tokenizer = TASKS.get("causal-lm"), tiny_models.tokenizer()
    examples = [Example(str(i), "the cat " * i, " sat on the mat" * (9 - i)) for i in range(1, 9)]
    rows, _ = task.rows(examples, tokenizer, 128, [])
    assert len({len(row.ids) for row in rows}) > 3  # ragged
    loss, _ = task.loss(model)
    found = []
    for size in (1, 3, 8):
        model.zero_grad()
        groups = [rows[i : i + size] for i in range(0, 8, size)]
        batches = [task.collate(group, 0, model.device) for group in groups]
        parameters = [p for p in model.parameters() if p.requires_grad]
        done = train_step(batches, loss, parameters, max_grad_norm=1e9)
        found.append((done.loss, torch.cat([p.grad.flatten() for p in parameters])))
    whole_loss, whole = found[-1]
    assert float(whole.abs().max()) > 1e-4
    for some_loss, some in found[:-1]:
        assert some_loss == pytest.approx(whole_loss, rel=tolerance)
        assert float((some - whole).abs().max() / whole.abs().max()) < tolerance


class Toy(nn.Module):
    """One weight, to be moved to 3."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, batch: Batch) -> torch.Tensor:
        return ((self.weight - 3) ** 2 * batch.targets).sum()


def toy_steps(count: int) -> list[list[Batch]]:
    return [[Batch({}, torch.zeros(1), 1, 4, 2)] for _ in range(count)]


def test_a_toy_can_stand_in_for_model_loss_and_batches() -> None:
    toy, events = Toy(), []
    settings = TrainSection(learning_rate=0.1, schedule="constant", warmup=0.0)
    done = fit(toy, toy_steps(200), toy.loss, settings, [lambda event, **f: events.append((event, f))])
    assert float(toy.weight) == pytest.approx(3, abs=0.1)
    assert (done.steps, done.rows, done.tokens, done.best_loss) == (200, 200, 800, None)
    assert [name for name, _ in events] == ["train"] * 200 + ["end"]
    assert {"step", "loss", "learning_rate", "tokens_per_second", "seconds"} <= events[0][1].keys()


def test_the_best_look_is_put_back_and_patience_ends() -> None:
    toy, looks = Toy(), iter([5.0, 1.0, 2.0, 2.0, 9.0])
    weights: list[float] = []

    def validate() -> float:
        weights.append(float(toy.weight))
        return next(looks)

    settings = TrainSection(learning_rate=0.1, evaluate_every=2, patience=2)
    done = fit(toy, toy_steps(50), toy.loss, settings, validate=validate)
    assert (done.steps, done.best_step, done.best_loss) == (8, 4, 1.0)
    assert float(toy.weight) == pytest.approx(weights[1])
    assert done.stopped == "no improvement in 2 looks at validation"


def test_a_loss_that_is_no_number_stops_with_a_remedy() -> None:
    toy = Toy()
    with pytest.raises(TuneliftError, match=r"Not one of 10 steps had a loss and a gradient that are finite numbers"):
        fit(toy, toy_steps(30), lambda batch: toy.weight.sum() * float("nan"), TrainSection(learning_rate=0.1))
    assert float(toy.weight) == 0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules(schedule: Any) -> None:
    settings = TrainSection(learning_rate=1.0, schedule=schedule, warmup=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([i / 11 for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1.0) if schedule == "constant" else 0 < rates[-1] < 0.02


def test_every_row_in_the_loss_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logged loss is the optimised one: the sum over target tokens divided once by their number."""
    model = tiny_models.adapted(tiny_models.causal("gpt2"))
    task, tokenizer = TASKS.get("causal-lm"), tiny_models.tokenizer()
    rows, report = task.rows([Example("0", "the", " cat"), Example("1", "a", " mat sat")], tokenizer, 64, [])
    loss, _ = task.loss(model)
    batch = task.collate(rows, 0, model.device)
    assert batch.targets == report.tokens_in_loss
    with torch.no_grad():
        logits: Any = model(**batch.inputs).logits
        plain = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        assert float(loss(batch)) / batch.targets == pytest.approx(float(plain), rel=1e-5)


def test_a_classifier_that_runs_without_padding_makes_one_micro_batch_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    task, collated = TASKS.get("sequence-classification"), []
    collate = type(task).collate
    monkeypatch.setattr(type(task), "collate", lambda *args: collated.append(len(args[1])) or collate(*args))
    config = LoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS")
    model = get_peft_model(tiny_models.classifier(["bad", "good"]), config)
    examples = [Example(str(i), "the cat " * (1 + 4 * i), "good" if i % 2 else "bad") for i in range(8)]
    settings = TrainSection(batch_size=8, steps=2, max_length=128)
    done = train(model, tiny_models.tokenizer(), task, {"train": examples}, settings, labels=["bad", "good"])
    assert done.fast_paths["unpadded"] == "on"
    assert collated[-2:] == [8, 8]


def losses_with_adalora(methods: Registry[Method], more: float) -> list[float]:
    """Train with a method whose further loss is a constant; return the losses of training and validation in order."""
    methods._entries["adalora"] = Method(
        "ADALORA",
        after_step=lambda model, step: model.base_model.update_and_allocate(step),
        further_loss=lambda model: more + 0.0 * next(p for p in model.parameters() if p.requires_grad).sum(),
    )
    config = AdaLoraConfig(target_modules="all-linear", total_step=3, init_r=4, target_r=2, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = get_peft_model(tiny_models.causal("llama"), config)
    rows = [Example(str(i), f"what is {i}", f" it is {i % 3}") for i in range(12)]
    told: list[float] = []
    train(
        model, tiny_models.tokenizer(), TASKS.get("causal-lm"), {"train": rows, "validation": rows[:4]},
        TrainSection(steps=3, batch_size=4, micro_batch_tokens=32),
        listeners=[lambda event, **facts: told.append(facts["loss"]) if "loss" in facts else None],
    )  # fmt: skip
    kept = [p.count_nonzero().item() for name, p in model.named_parameters() if "lora_E" in name]
    assert sum(kept) <= 2 * len(kept)  # pruned after a step, while gradients are there
    return told


def test_the_hooks_of_a_method_are_called_by_the_loop(methods: Registry[Method]) -> None:
    """What is added to the loss of a step is not in that of validation."""
    both = zip(losses_with_adalora(methods, 0.0), losses_with_adalora(methods, 5.0), strict=True)
    assert [round(second - first, 3) for first, second in both] == [5.0, 5.0, 0.0, 5.0, 0.0]
