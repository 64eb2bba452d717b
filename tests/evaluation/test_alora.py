"""An adapter that acts from certain tokens of a row on is asked with whole rows, whichever way it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_models
import tunelift
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
