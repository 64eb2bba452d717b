"""A training with an optimiser other than AdamW that was cut off ends in the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_trainings import CutOffError, fingerprint, trained

from tunelift.training import optimisers
from tunelift.training.optimisers import OPTIMISERS


@pytest.mark.parametrize("name", [name for name in OPTIMISERS if name != "adamw"])
def test_cut_off_it_ends_in_the_same_bytes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(event: str, **figures: Any) -> None:
        if event == "train" and figures["step"] == 5:
            raise CutOffError

    if name == "adamw-8bit":
        pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
        monkeypatch.setattr(optimisers, "SMALL", 64)  # so that a tiny model's tensors are held so too
    whole, expected = trained(tmp_path / "whole", optimizer=name)
    with pytest.raises(CutOffError):
        trained(tmp_path / "cut", [cut], optimizer=name)
    _, same = trained(tmp_path / "cut", optimizer=name)
    assert fingerprint(same) == fingerprint(expected)
    assert whole.fit.losses[-1] < whole.fit.losses[0]
