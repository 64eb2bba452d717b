"""All weights, or a LoRA half of which is held, killed in a step: the same command ends in the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import run_to_kill
from checkpoint_trainings import in_child

from tunelift.config.keywords import from_keywords
from tunelift.pipeline.run import run
from tunelift.training import loop, step

SCORES = ("base/scores.jsonl", "tuned/scores.jsonl")
ADAPTERS: dict[str, dict[str, Any]] = {
    "model/model.safetensors": {"method": "full"},
    "adapter/adapter_model.safetensors": {"init_lora_weights": "pissa", "lora_dropout": 0.1},
}
"""Adapter sections by the file that is to be the same."""


def run_in(folder: Path, output: Path, adapter: dict[str, Any], kill_at: int | None = None) -> None:
    """Do the run, or go on with it; get SIGKILL in the step of this number."""
    kernel, count = step.train_step, 0

    def killed(*args: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return kernel(*args, **named)  # type: ignore[arg-type]

    loop.train_step = killed  # type: ignore[assignment]  # in a process of its own
    keywords = run_to_kill.keys(folder) | {"adapter": adapter}
    run(from_keywords("train", **keywords, output=str(output)))


def result(output: Path, saved: str) -> dict[str, str]:
    return {name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in (saved, *SCORES)}


@pytest.mark.parametrize("saved", ADAPTERS)
def test_killed_in_a_step_it_ends_in_the_same_bytes(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "cache"))
    adapter, cut = ADAPTERS[saved], tmp_path / "cut"
    assert in_child(lambda: run_in(tmp_path, tmp_path / "whole", adapter)) == 0
    assert in_child(lambda: run_in(tmp_path, cut, adapter, kill_at=6)) == -signal.SIGKILL
    assert (cut / "checkpoints").is_dir()
    assert in_child(lambda: run_in(tmp_path, cut, adapter)) == 0
    assert result(cut, saved) == result(tmp_path / "whole", saved)
    assert not (cut / "checkpoints").exists()
    assert all(proof["passed"] for proof in json.loads((cut / "manifest.json").read_text())["proofs"])
