"""Answers in batches are each prompt's own, or each prompt is answered by itself; rows that read padding too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from tunelift.evaluation.answers import greedy
from tunelift.evaluation.generation import Decoding
from tunelift.fast.target_model import target_model
from tunelift.fast.whole_logits import RowByRow, WholeLogits

ROWS = [[5, 6, 7, 8, 9, 10, 11], [20, 21], [5, 6, 7, 8, 30]]


def built(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**tiny_models.SIZES, "state_size": 8, "dim_ff": 48, "dim_head": 16, **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model.eval()


def plain(model: Any) -> list[list[int]]:
    """Return the answers by passes over each row alone."""
    answers = []
    for row in ROWS:
        whole = list(row)
        for _ in range(5):
            whole.append(int(model(input_ids=torch.tensor([whole]), use_cache=False).logits[0, -1].argmax()))
        answers.append(whole[len(row) :])
    return answers


def answered(model: Any) -> tuple[list[list[int]], str]:
    generate, state = greedy(model, None, target_model(model)[0].nats)
    return [answer.ids for answer in generate(ROWS, Decoding((), 5), 8, lambda *_, **__: None)], state


@pytest.mark.parametrize("kind", [*tiny_models.ARCHITECTURES, "mamba"])
def test_answers_are_those_of_each_prompt_alone(kind: str) -> None:
    model = built(kind) if kind == "mamba" else tiny_models.causal(kind)
    found, state = answered(model)
    assert found == plain(model)
    assert (state == "on") == (kind != "mamba"), state


def test_virtual_tokens_are_before_every_prompt() -> None:
    torch.manual_seed(0)
    model = get_peft_model(tiny_models.causal("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model.eval()
    found, _ = answered(model)
    assert found == plain(model)


def test_half_precision_answers_in_batches_still() -> None:
    assert answered(tiny_models.causal("llama").bfloat16())[1] == "on"


def test_rows_of_a_model_that_reads_padding_are_taken_by_themselves() -> None:
    """CPM-Ant takes no mask: what stands behind a row changes it."""
    model = built("cpmant", num_hidden_layers=2)
    view, _ = target_model(model)
    assert isinstance(view, RowByRow)
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    labels = ids.masked_fill(mask == 0, -100)
    found = view.log_likelihoods({"input_ids": ids, "attention_mask": mask}, labels)
    expected = [
        torch.log_softmax(model(input_ids=torch.tensor([row])).logits[0], -1)[:-1].gather(
            1, torch.tensor(row)[1:, None]
        )
        for row in ROWS
    ]
    assert torch.allclose(found, torch.cat(expected).squeeze(1), atol=1e-4)
    together = WholeLogits(model).log_likelihoods({"input_ids": ids, "attention_mask": mask}, labels)
    assert not torch.allclose(found, together, atol=1e-2)
    loss = view.loss_sum({"input_ids": ids, "attention_mask": mask}, labels)
    assert float(loss) == pytest.approx(-float(found.sum()), rel=1e-5)
