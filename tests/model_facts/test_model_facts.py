from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import tiny_models
from tunelift.model_facts import anatomy, parameters


def test_a_model_computes_in_the_dtype_of_its_first_numbers_with_a_point() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16))
    model.insert(0, nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False)]))
    assert parameters.compute_dtype(model) == torch.float32
    assert parameters.is_wide(model)
    assert not parameters.is_wide(model[2])
    assert parameters.stored_dtypes(model) == {torch.uint8, torch.float32, torch.bfloat16}
    assert parameters.dtype_name(torch.bfloat16) == "bfloat16"
    assert parameters.trained(model)[-1] == ("2.bias", [2], "torch.bfloat16")
    with pytest.raises(StopIteration):
        parameters.compute_dtype(model[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (), (0,)])
def test_sums_of_bits_are_those_of_numpy(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    numbers = torch.randn(shape).to(dtype)
    raw = numbers.flatten().view(torch.uint8).numpy().tobytes()
    whole, words = len(raw) // 8 * 8, range(0, len(raw) // 8 * 8, 8)
    summed = sum(int.from_bytes(raw[at : at + 8], "little", signed=True) for at in words)
    assert parameters.bit_sums(numbers) == ((summed + 2**63) % 2**64 - 2**63, sum(raw[whole:]))
    own = numbers.element_size()
    integers = [int.from_bytes(raw[at : at + own], "little", signed=True) for at in range(0, len(raw), own)]
    assert parameters.sum_of_own_width(numbers) == (sum(integers) + 2**63) % 2**64 - 2**63


def test_bits_of_a_part_of_a_tensor_are_summed_wherever_it_begins() -> None:
    numbers = torch.randn(101).bfloat16()
    assert parameters.bit_sums(numbers[1:]) == parameters.bit_sums(numbers[1:].clone())


def test_samples_tell_a_change_of_most_numbers() -> None:
    model = nn.Linear(100, 100)
    before = parameters.samples(model)
    assert parameters.samples(model) == before
    with torch.no_grad():
        model.weight.add_(1)
    assert parameters.samples(model) != before


def test_an_adapter_is_around_its_base() -> None:
    model = tiny_models.causal("llama")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert anatomy.base_of(adapted) is anatomy.base_of(model) is model
    assert anatomy.layers(model.model) is model.model.layers
    assert anatomy.layers(nn.Linear(1, 1)) is None


def test_what_a_config_says() -> None:
    def model(**said: int | None) -> SimpleNamespace:
        text = SimpleNamespace(**said)
        return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))

    assert anatomy.positions(model(max_position_embeddings=-1)) is None
    assert anatomy.positions(model(max_position_embeddings=None, n_positions=9, seq_length=7)) == 7
    assert anatomy.positions(model(n_positions=9), ["max_position_embeddings"]) is None
    assert anatomy.vocabulary(model(vocab_size=5)) == 5
    assert anatomy.vocabulary(model()) is None
    padded, bare = model(pad_token_id=3), model(pad_token_id=None)
    assert anatomy.pad_id(padded, SimpleNamespace(pad_token_id=4)) == anatomy.own_pad_id(padded) == 3
    assert anatomy.pad_id(bare, SimpleNamespace(pad_token_id=4)) == 4
    assert anatomy.pad_id(bare, SimpleNamespace(pad_token_id=None)) == anatomy.pad_id(bare) == 0
