"""An adapter that acts from certain tokens of a row on is asked with whole rows, whichever way it is asked."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_models
import tunelift
from tunelift.adapters.build import attach
from tunelift.core.errors import InputError
from tunelift.evaluation.likelihood import log_likelihoods
from tunelift.evaluation.ranking import ranker
from tunelift.fast.target_model import target_model

PROMPTS, INVOKED = ["ba", "xba1", "there is none"], [69, 68]
"""The first two have the invocation, short as they are: nothing that is tried on other rows shows what it does."""
LABELS = [[40, 41, 1], [42, 1]]


def model_of(seed: int = 1) -> Any:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"target_modules": "all-linear", "init_lora_weights": False, "r": 4}
    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=INVOKED, **settings)
    return get_peft_model(tiny_models.causal("llama"), config).eval()


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    found: torch.Tensor = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0]
    return found


def test_answers_are_those_of_whole_rows() -> None:
    tokenizer, expected = tiny_models.tokenizer(), []
    for prompt in PROMPTS:
        ids = tokenizer(prompt).input_ids
        for _ in range(8):
            ids.append(int(logits(model_of(), ids)[-1].argmax()))
        expected.append(tokenizer.decode(ids[-8:], skip_special_tokens=True))
    answers = tunelift.generate(model_of(), tokenizer, PROMPTS, max_new_tokens=8)
    assert [answer["tuned"] for answer in answers] == expected
    assert answers[0]["tuned"] != answers[0]["base"]


def test_labels_are_ranked_by_whole_rows() -> None:
    model, tokenizer = model_of(), tiny_models.tokenizer()
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    view, _ = target_model(model, prompts)
    rank, _ = ranker(view, torch.device("cpu"), 8, (prompts[0], LABELS))
    found = rank.rank(prompts, [LABELS] * len(prompts), None, lambda *_: None)
    for prompt, scores in zip(prompts, found, strict=True):
        for label, score in zip(LABELS, scores, strict=True):
            likely = logits(model, [*prompt, *label]).log_softmax(dim=-1)[len(prompt) - 1 : -1]
            assert score == pytest.approx(float(likely.gather(1, torch.tensor(label)[:, None]).sum()), rel=1e-5)


def test_stock_generation_without_a_cache_is_still_wrong() -> None:
    """peft 0.21.2 keeps where the adapter begins, counted from a row's end that moves on."""
    model, tokenizer = model_of(), tiny_models.tokenizer()
    ids = tokenizer(PROMPTS[1], return_tensors="pt").input_ids
    how: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    cached, plain = (model.generate(input_ids=ids, **how, use_cache=used, pad_token_id=1) for used in (True, False))
    assert not torch.equal(cached, plain)


@pytest.mark.parametrize("tokens", [[0], [7, 0]])
def test_padding_begins_nothing(tokens: list[int]) -> None:
    """Rows are padded with id 0, in which peft looks for the invocation too: each is scored as it is by itself."""
    torch.manual_seed(1)
    settings: dict[str, Any] = {"target_modules": "all-linear", "init_lora_weights": False, "r": 4}
    config = LoraConfig(task_type="CAUSAL_LM", alora_invocation_tokens=tokens, **settings)
    model = get_peft_model(tiny_models.causal("llama"), config).eval()
    pairs = [([5, *tokens, 6], [8, 9, 7]), ([5, *tokens, 6, 7, 9, 9, 11, 12], [8, 9])]
    view, _ = target_model(model, [prompt for prompt, _ in pairs])
    found = log_likelihoods(view, pairs, torch.device("cpu"), 8, lambda *_: None)
    for (prompt, completion), (score, _) in zip(pairs, found, strict=True):
        likely = logits(model, [*prompt, *completion]).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        assert score == pytest.approx(float(likely.gather(1, torch.tensor(completion)[:, None]).sum()), rel=1e-5)


def test_layers_whose_rows_peft_cannot_take_apart_are_refused() -> None:
    """peft 0.21.2 flattens what Mamba's x_proj takes by a view, which two rows do not let it; in_proj is taken."""
    torch.manual_seed(1)
    model = tiny_models.causal("mamba", state_size=8)
    keys: dict[str, Any] = {"task_type": "CAUSAL_LM", "alora_invocation_tokens": [5]}
    with pytest.raises(InputError, match="cannot be on mixer"):
        attach(deepcopy(model), LoraConfig(target_modules=["in_proj", "x_proj"], **keys), 0)
    adapted = get_peft_model(deepcopy(model), LoraConfig(target_modules=["x_proj"], **keys))
    rows = torch.tensor([[5, 6, 7], [7, 5, 8]])
    with pytest.raises(RuntimeError, match="view"):  # a later peft has mended it
        adapted(input_ids=rows)
    assert attach(model, LoraConfig(target_modules=["in_proj"], **keys), 0)(input_ids=rows).logits.isfinite().all()
