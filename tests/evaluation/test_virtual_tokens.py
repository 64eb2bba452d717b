"""Tokens that an adapter puts before each row take up positions: what no longer fits is not scored, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import tiny_models
import tunelift
from tunelift.core.errors import InputError
from tunelift.core.records import Example
from tunelift.evaluation.plan import Plan
from tunelift.metrics import resolve
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.session import Session
from tunelift.tasks import DEFAULT

POSITIONS, VIRTUAL = 128, 20
PROMPTS = [PromptTuningConfig, PrefixTuningConfig]


def adapted(config: type[PeftConfig], kind: str = "gpt2") -> Any:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": VIRTUAL}
    base = tiny_models.causal(kind)
    del base.config.num_key_value_heads  # which GPT-2 has none of, and peft would follow
    return get_peft_model(base, config(**settings)).eval()


def scored(model: Any, lengths: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of texts of so many tokens, the beginning's and the end's among them, and how they were made."""
    examples = [Example(str(n), "", "~" * (n - 2)) for n in lengths]
    session = Session.of(model, tiny_models.tokenizer(), DEFAULT)
    scores = session.score(examples, Plan(resolve(["loss"]), task=DEFAULT, max_length=4096), "test")
    return [dict(row) for row in scores.rows], dict(scores.info["made_with"])


@pytest.mark.parametrize("config", PROMPTS)
def test_a_row_is_scored_as_long_as_it_fits_behind_them(config: type[PeftConfig]) -> None:
    model, fits = adapted(config), POSITIONS - VIRTUAL
    assert context_length(model, tiny_models.tokenizer()) == fits
    rows, _ = scored(model, [fits, fits + 1, POSITIONS])
    assert ["unscored" in row for row in rows] == [False, True, True]
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, fits + 1), 5))
    ids = tiny_models.tokenizer()("~" * (fits - 2), return_tensors="pt").input_ids
    ids = torch.cat([ids, torch.tensor([[1]])], dim=1)
    assert ids.shape[1] == fits
    with torch.no_grad():
        likely = model(input_ids=ids).logits[0, -fits:].log_softmax(dim=-1)
    expected = float(likely[:-1].gather(1, ids[0, 1:, None]).sum())
    assert rows[0]["log_likelihood"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("config", PROMPTS)
def test_such_results_are_compared_with_the_bases_item_by_item(config: type[PeftConfig]) -> None:
    base_rows, base = scored(tiny_models.causal("gpt2"), [60, POSITIONS])
    tuned_rows, tuned = scored(adapted(config), [60, POSITIONS])
    assert base["max_length"] == tuned["max_length"] == POSITIONS
    assert ["unscored" in row for row in (*base_rows, *tuned_rows)] == [False, False, False, True]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused() -> None:
    model, prompt = adapted(PromptTuningConfig), "~" * (POSITIONS - VIRTUAL - 1)
    with pytest.raises(InputError, match=f"Prompt 1 has {POSITIONS - VIRTUAL} tokens; the model's context is"):
        tunelift.generate(model, tiny_models.tokenizer(), [prompt])


def test_training_rows_are_cut_to_what_fits_behind_them() -> None:
    model = adapted(PromptTuningConfig)
    rows = [{"text": "~" * n} for n in (POSITIONS + 30, 40)]
    settings: dict[str, Any] = {"steps": 1, "batch_size": 2, "max_length": 4096}
    places = list[int]()
    table = model.get_base_model().transformer.wpe
    table.register_forward_pre_hook(lambda _, asked: places.append(int(asked[0].max())))
    tunelift.tune(model, tiny_models.tokenizer(), rows, **settings)
    assert max(places) == POSITIONS - 1  # the long row is cut, and not left out


def test_an_adapter_without_them_takes_nothing_away() -> None:
    assert context_length(tiny_models.adapted(tiny_models.causal("gpt2")), tiny_models.tokenizer()) == POSITIONS


def test_items_measured_on_the_base_before_are_cut_anew_behind_them() -> None:
    """A prompt takes positions of the context: rows that fit the base alone do not fit any more."""
    base = tiny_models.causal("gpt2")
    del base.config.num_key_value_heads
    session = Session.of(base, tiny_models.tokenizer(), DEFAULT)
    examples = [Example(str(n), "", "~" * n) for n in (20, POSITIONS - 10)]
    plan = Plan(resolve(["loss"]), task=DEFAULT, max_length=4096)
    assert "unscored" not in session.score(examples, plan, "base").rows[1]
    torch.manual_seed(1)
    settings: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": VIRTUAL}
    session.model = get_peft_model(base, PromptTuningConfig(**settings)).eval()
    alone = Session.of(session.model, tiny_models.tokenizer(), DEFAULT)
    assert session.score(examples, plan, "tuned").rows == alone.score(examples, plan, "tuned").rows
