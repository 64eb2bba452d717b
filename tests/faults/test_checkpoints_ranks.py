"""Two ranks on one window: the loss, the gradients and the resume of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_trainings import cut_off, examples, fingerprint, in_child, trained
from safetensors.torch import load_file, save_file
from torch import distributed

import tiny_models
from tunelift.tasks.base import TASKS
from tunelift.training.step import train_step

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch has no gloo"
)


def on_two_ranks(place: Path, action: Callable[[int], None]) -> list[int]:
    """Run `action(rank)` in two processes that form a group; return their exit codes."""
    meeting = place / f"meeting-{len(list(place.iterdir()))}"

    def member(rank: int) -> None:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
        action(rank)
        distributed.destroy_process_group()

    def both() -> None:
        other = os.fork()
        code = in_child(lambda: member(int(other == 0)))
        if other == 0:
            os._exit(code)
        raise SystemExit(code or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))

    return [in_child(both)]


def gradients_of_a_step(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return loss and gradients of one window of seven rows in four micro-batches."""
    model = tiny_models.adapted(tiny_models.causal("llama")).to(dtype)
    task = TASKS.get("causal-lm")
    rows, _ = task.rows(examples(7), tiny_models.tokenizer(), 128, [])
    batches = [task.collate(rows[i : i + 2], 0, model.device) for i in (0, 2, 4)] + [
        task.collate(rows[6:], 0, model.device)
    ]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    done = train_step(batches, task.loss(model)[0], list(named.values()), 1e9)
    return {"loss": torch.tensor(done.loss, dtype=torch.float64)} | {
        n: p.grad for n, p in named.items() if p.grad is not None
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_two_ranks_have_the_loss_and_gradients_of_one(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    one = gradients_of_a_step(dtype)
    assert on_two_ranks(
        tmp_path, lambda rank: save_file(gradients_of_a_step(dtype), tmp_path / f"rank-{rank}.safetensors")
    ) == [0]
    for rank in (0, 1):
        found = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert found.keys() == one.keys()
        worst = max(float((found[name] - one[name]).abs().max() / one[name].abs().max()) for name in one)
        assert worst < tolerance


def test_two_ranks_resume_exactly(tmp_path: Path) -> None:
    """With dropout, whose random numbers differ between the ranks."""
    place = tmp_path / "meetings"
    place.mkdir()

    def finish(folder: Path) -> Callable[[int], None]:
        def action(rank: int) -> None:
            _, adapter = trained(folder)
            (tmp_path / f"{folder.name}-{rank}").write_text(fingerprint(adapter))

        return action

    assert on_two_ranks(place, finish(tmp_path / "whole")) == [0]
    assert on_two_ranks(place, lambda rank: _cut(tmp_path / "cut")) == [0]
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["step-00000002", "step-00000004"]
    assert on_two_ranks(place, finish(tmp_path / "cut")) == [0]
    found = {(tmp_path / f"{name}-{rank}").read_text() for name in ("whole", "cut") for rank in (0, 1)}
    assert len(found) == 1


def _cut(folder: Path) -> Any:
    cut_off(folder, 5)
    os._exit(0)  # as if killed: no farewell to the other rank
