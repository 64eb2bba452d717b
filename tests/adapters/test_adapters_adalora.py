"""AdaLoRA takes ranks away as its budget says, and what is saved holds those that the best parameters have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from method_battery import SETTINGS, Bench
from tunelift.adapters import adalora
from tunelift.core.errors import InputError
from tunelift.pipeline.session import Session
from tunelift.pipeline.trying import logits
from tunelift.run_files.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunelift.training.run import train


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench("adalora", tmp_path_factory.mktemp("adalora"), "decoder")


def values(session: Session) -> dict[str, nn.Parameter]:
    return {name: p for name, p in session.model.named_parameters() if ".lora_E." in name}


def ranks(session: Session) -> dict[str, int]:
    return {name: int(p.count_nonzero()) for name, p in values(session).items()}


def test_the_ranks_that_are_left_are_the_budget_and_are_what_is_saved(bench: Bench) -> None:
    config = bench.tuned.model.active_peft_config
    assert (config.total_step, config.tinit, config.tfinal) == (10, 0, 1)
    left = ranks(bench.tuned)
    assert sum(left.values()) == config.target_r * len(left) < config.init_r * len(left)
    saved = load_file(bench.saved / ADAPTER_WEIGHTS)
    for name, rank in left.items():
        assert len(saved[name.removesuffix(".default")]) == rank
    pattern = json.loads((bench.saved / ADAPTER_CONFIG).read_text())["rank_pattern"]
    assert sorted(map(sum, pattern.values())) == sorted(left.values())


def test_what_goes_on_from_its_ranks_keeps_them(bench: Bench) -> None:
    session = bench.session()
    session.load_adapter(bench.saved, trainable=True)
    before = ranks(session)
    bench.train(session)
    assert ranks(session) == before
    again = session.save_adapter(bench.folder / "on")
    found, whole = load_file(again / ADAPTER_WEIGHTS), load_file(bench.saved / ADAPTER_WEIGHTS)
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in whole.items()}


def test_the_ranks_are_those_of_the_best_parameters(bench: Bench, tmp_path: Path) -> None:
    """At the best look fewer had been taken away than at the end."""
    session, settings = bench.begun(), SETTINGS.model_copy(update={"evaluate_every": 1, "patience": 1})
    rows = {"train": bench.rows, "validation": bench.rows[:4]}
    looks = iter([1.0, 2.0, 3.0])
    from tunelift.training import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_validation", lambda *_: lambda: next(looks))
        train(session.model, session.tokenizer, bench.task, rows, settings, labels=session.labels)
    left = ranks(session)
    assert sum(left.values()) > 8 * len(left)
    pattern = session.model.active_peft_config.rank_pattern
    assert sum(map(sum, pattern.values())) == sum(left.values())
    saved = load_file(session.save_adapter(tmp_path / "best") / ADAPTER_WEIGHTS)
    assert all(
        torch.equal(saved[name.removesuffix(".default")], p[p.flatten() != 0]) for name, p in values(session).items()
    )


def test_the_factors_are_held_to_be_orthogonal(bench: Bench) -> None:
    model = bench.begun().model
    further = adalora.orthogonality(model)
    further.backward()
    assert further > 0
    assert all(p.grad is not None for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name)


def test_virtual_tokens_are_not_gone_on_from(tmp_path: Path) -> None:
    prompts = Bench("prompt-tuning", tmp_path, "decoder")
    with pytest.raises(InputError, match="of Prompt tuning, which peft does not load to be trained on"):
        prompts.session().check({"start_from": str(prompts.saved)})


def test_what_is_trained_on_a_base_in_half_precision_is_what_peft_loads(tmp_path: Path) -> None:
    """peft 0.21.2 rounds it to the base's precision: once it does not, `adalora.end` need not."""
    bench = Bench("adalora", tmp_path, "decoder")
    session = bench.session("bfloat16")
    session.attach(bench.keys, 0)
    bench.train(session)
    folder = session.save_adapter(tmp_path / "trained")

    def loaded() -> Tensor:
        return logits(PeftModel.from_pretrained(bench.stock_base(torch.bfloat16), str(folder)).eval())

    kept = loaded()
    assert torch.equal(kept, logits(session.model.eval()))
    saved = load_file(folder / ADAPTER_WEIGHTS)
    save_file({name: tensor * (1 + 2**-10) for name, tensor in saved.items()}, folder / ADAPTER_WEIGHTS)
    assert torch.equal(kept, loaded())  # more than half of a digit would be needed


def test_what_a_layers_outputs_are_divided_by_is_not_trained_on_a_base_in_half_precision(tmp_path: Path) -> None:
    """peft 0.21.2 trains it and does not save it: once it does not, `never_trained` of the row can go."""
    bench = Bench("adalora", tmp_path, "decoder")

    def trained(model: Any) -> bool:
        return any("ranknum" in name and p.requires_grad for name, p in model.named_parameters())

    session = bench.session("bfloat16")
    assert trained(get_peft_model(bench.stock_base(torch.bfloat16), session._peft_config(bench.keys)))
    session.attach(bench.keys, 0)
    assert not trained(session.model)
    folder = session.save_adapter(tmp_path / "begun")
    again = bench.session("bfloat16")
    again.load_adapter(folder, trainable=True)
    assert not trained(again.model)
