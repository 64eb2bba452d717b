"""A training on a base in few bits, its layers computed again, that was cut off ends in the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_trainings import CutOffError, fingerprint, trained

import tiny_models
from tunelift.config.schema import ModelSection
from tunelift.models import load


class _CutOff:
    """Ends the training at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == self.step:
            raise CutOffError


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_cut_off_it_ends_in_the_same_bytes(kind: Any, tmp_path: Path) -> None:
    tiny_models.causal("llama").save_pretrained(tmp_path / "base")
    tiny_models.tokenizer().save_pretrained(tmp_path / "base")

    def model() -> Any:
        section = ModelSection(name=str(tmp_path / "base"), dtype="float32", quantization=kind)
        return tiny_models.adapted(load(section).model, lora_dropout=0.1)

    again = {"gradient_checkpointing": kind == "int4"}
    _, whole = trained(tmp_path / "whole", model=model(), **again)
    with pytest.raises(CutOffError):
        trained(tmp_path / "cut", [_CutOff(7)], model=model(), **again)
    done, same = trained(tmp_path / "cut", model=model(), **again)
    assert fingerprint(same) == fingerprint(whole)
    assert done.fit.steps == 12
    assert done.fast_paths["frozen_products"].startswith("on")
