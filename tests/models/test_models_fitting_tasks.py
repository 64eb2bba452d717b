"""Which task a model is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.models import natural_task


def test_the_natural_task_of_a_decoder_and_of_an_encoder(saved: Callable[[str], Path]) -> None:
    assert natural_task(str(saved("llama"))).name == "causal-lm"
    assert natural_task(str(saved("bert"))).name == "sequence-classification"


def test_models_without_a_task(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved("bert")
    files.write_json(folder / "config.json", {"model_type": "clip"})
    with pytest.raises(InputError, match=r"clip\) fits no task"):
        natural_task(str(folder))
    files.write_json(folder / "config.json", {"model_type": "no-such-type"})
    with pytest.raises(InputError, match=r"config\.json of .* cannot be used"):
        natural_task(str(folder))
