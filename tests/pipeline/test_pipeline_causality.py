"""A causal language model whose tokens see later ones is refused: its likelihoods would be told the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_models
import tunelift
from architectures import tiny
from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError
from tunelift.pipeline.causality import check_reads_forward
from tunelift.pipeline.session import Session
from tunelift.tasks import DEFAULT

ROWS = [{"prompt": f"cat {i}", "completion": " mat"} for i in range(12)]
SEES_LATER = {
    "CPM-Ant": lambda: tiny("cpmant"),
    "XLNet": lambda: tiny("xlnet"),
    "XLM": lambda: tiny("xlm"),
    "BERT": lambda: tiny_models.causal("bert", is_decoder=False),
    "Gemma 3": lambda: tiny_models.causal("gemma3_text", use_bidirectional_attention=True),
}


@pytest.mark.parametrize("kind", SEES_LATER)
def test_a_model_that_sees_later_tokens_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="sees the tokens behind the one"):
        tunelift.evaluate(SEES_LATER[kind](), tiny_models.tokenizer(), data=ROWS, metrics=["loss"])
    with pytest.raises(InputError, match="sees the tokens behind the one"):
        tunelift.tune(SEES_LATER[kind](), tiny_models.tokenizer(), data=ROWS, steps=1)


def test_so_is_one_that_is_loaded(tmp_path: Path) -> None:
    SEES_LATER["Gemma 3"]().save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="sees the tokens behind the one"):
        Session.open(ModelSection(name=str(tmp_path), dtype="float32"), DEFAULT)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text", "qwen3_moe", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_others_are_not_in_either_precision_and_stay_as_they_were(kind: str, dtype: torch.dtype) -> None:
    changes: dict[str, Any] = {"state_size": 8} if kind == "mamba" else {}
    model = tiny_models.causal(kind, **changes).to(dtype).train()
    model.lm_head.eval()
    modes = [module.training for module in model.modules()]
    check_reads_forward(model)
    assert [module.training for module in model.modules()] == modes
