"""Adapters from the configuration: counts as peft's, keys checked, a ready config passed through."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from transformers import GPT2Config, GPT2LMHeadModel

import tiny_models
from tunelift.adapters.build import attach, check_keys, count_parameters, peft_config, switched_off
from tunelift.core.errors import InputError


@pytest.fixture(scope="module")
def gpt2() -> GPT2LMHeadModel:
    with torch.device("meta"):  # the real shapes, without the memory
        return GPT2LMHeadModel(GPT2Config())


def test_gpt2_with_a_passed_config(gpt2: GPT2LMHeadModel) -> None:
    model = attach(gpt2, LoraConfig(), seed=0)
    count = count_parameters(model)
    assert (count.trainable, count.total) == (294_912, 124_734_720)
    assert str(count) == "trainable params: 294,912 of 124,734,720 (0.2364%)"
    model.unload()


def test_gpt2_with_our_default(gpt2: GPT2LMHeadModel) -> None:
    model = attach(gpt2, peft_config({}, "CAUSAL_LM"), seed=0)
    assert count_parameters(model).trainable == 1_179_648
    model.unload()


def test_every_field_of_peft_is_a_key() -> None:
    config = peft_config({"r": 4, "lora_alpha": 9, "use_rslora": True, "target_modules": ["q_proj"]}, "CAUSAL_LM")
    assert (config.r, config.lora_alpha, config.use_rslora, config.target_modules) == (4, 9, True, {"q_proj"})
    assert config.task_type == "CAUSAL_LM"


def test_misspelt_keys_are_hinted_all_at_once() -> None:
    problems = check_keys({"method": "lora", "lora_alhpa": 8, "rank": 8})
    assert problems[0] == 'adapter.lora_alhpa: peft\'s LoraConfig has no such key. Did you mean "lora_alpha"?'
    assert problems[1].startswith("adapter.rank: peft's LoraConfig has no such key. Its keys: alora_")
    assert ", r, " in problems[1]
    assert check_keys({"method": "lora2"}) == ['adapter.method: there is no PEFT method "lora2". Did you mean "lora"?']


def test_wrong_targets_list_the_candidates() -> None:
    with pytest.raises(InputError, match="is a layer of this model") as error:
        attach(tiny_models.causal("llama"), peft_config({"target_modules": ["query"]}, "CAUSAL_LM"), seed=0)
    assert '"all-linear", or some of: down_proj, gate_proj' in str(error.value)


def test_a_value_that_peft_refuses() -> None:
    with pytest.raises(InputError, match="peft refuses"):
        attach(tiny_models.causal("llama"), peft_config({"r": 0}, "CAUSAL_LM"), seed=0)


def test_the_seed_draws_the_adapter_and_the_base_is_there_when_it_is_off() -> None:
    base = tiny_models.causal("llama")
    ids = torch.tensor([[5, 6, 7]])
    before = base(ids).logits
    models = [attach(tiny_models.causal("llama"), peft_config({}, "CAUSAL_LM"), seed) for seed in (0, 0, 1)]
    first, again, other = (dict(m.named_parameters()) for m in models)
    name = next(n for n in first if "lora_A" in n)
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    model = tiny_models.adapted(base)
    assert not torch.allclose(model(ids).logits, before)
    with switched_off(model):
        assert torch.equal(model(ids).logits, before)


def test_wrong_values_are_named_with_their_keys() -> None:
    problems = check_keys({"r": "abc", "lora_dropout": None, "use_dora": "perhaps", "lora_alpha": 8.5})
    assert [problem.split(":")[0] for problem in problems] == [
        "adapter.lora_alpha", "adapter.lora_dropout", "adapter.r", "adapter.use_dora",
    ]  # fmt: skip
    assert check_keys({"start_from": "folder", "r": 8}) == [
        "adapter.r: it cannot be set, since adapter.start_from brings its own."
    ]
    assert peft_config({"task_type": "CAUSAL_LM"}, "CAUSAL_LM").task_type == "CAUSAL_LM"
