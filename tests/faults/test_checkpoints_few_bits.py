"""A training on a base in few bits that was cut off ends in the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_trainings import CutOffError, fingerprint, trained

import tiny_models
from tunelift.config.schema import ModelSection
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS


def saved(folder: Path, kind: str) -> ModelSection:
    """Write a tiny model; return the section by which it is held in few bits, or lies so in its files."""
    tiny_models.causal("llama", hidden_size=64, intermediate_size=128, num_attention_heads=4).save_pretrained(
        folder / "plain"
    )
    tiny_models.tokenizer().save_pretrained(folder / "plain")
    if kind != "bitsandbytes-8bit":
        return ModelSection(name=str(folder / "plain"), dtype="float32", quantization=kind)  # type: ignore[arg-type]
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: Any = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "plain", quantization_config=how, dtype=torch.float32, device_map="cpu"
    )
    model.save_pretrained(folder / "narrow")
    tiny_models.tokenizer().save_pretrained(folder / "narrow")
    return ModelSection(name=str(folder / "narrow"), dtype="float32")


@pytest.mark.parametrize("kind", ["bitsandbytes-8bit", "nf4", "int4"])
def test_cut_off_it_ends_in_the_same_bytes(kind: str, tmp_path: Path) -> None:
    if kind != "int4":
        pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
    section = saved(tmp_path, kind)

    def base() -> Any:
        return tiny_models.adapted(Session.open(section, TASKS.get("causal-lm")).model, lora_dropout=0.1)

    def cut(event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == 5:
            raise CutOffError

    whole, expected = trained(tmp_path / "whole", model=base())
    with pytest.raises(CutOffError):
        trained(tmp_path / "cut", [cut], model=base())
    _, same = trained(tmp_path / "cut", model=base())
    assert fingerprint(same) == fingerprint(expected)
    assert whole.fit.losses[-1] < whole.fit.losses[0]
