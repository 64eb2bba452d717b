"""Two ranks that torchrun starts, on one window: the loss, the gradients and the resume of one.

The file is also what each rank runs first: `torchrun ... test_checkpoints_ranks.py PLACE`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import run_to_kill
import torch
from checkpoint_trainings import Watched, examples, trained
from safetensors.torch import load_file, save_file
from torch import distributed

import tiny_models
from tunelift.cli.main import cli
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError, TuneliftError
from tunelift.pipeline.run import run
from tunelift.tasks.base import TASKS, Batch
from tunelift.training import loop, ranks
from tunelift.training.checkpoint import Checkpoints
from tunelift.training.step import train_step

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch has no gloo"
)

TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
WHOLE, KILLED = "whole", "killed"


def model_of(dtype: str) -> Any:
    return tiny_models.adapted(tiny_models.causal("llama")).to(getattr(torch, dtype))


def gradients_of_a_step(dtype: str) -> dict[str, torch.Tensor]:
    """Return loss and gradients of one window of seven rows in four micro-batches."""
    model, task = model_of(dtype), TASKS.get("causal-lm")
    rows, _ = task.rows(examples(7), tiny_models.tokenizer(), 128, [])
    batches = [task.collate(rows[i : i + 2], 0, model.device) for i in (0, 2, 4, 6)]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    done = train_step(batches, task.loss(model)[0], list(named.values()), 1e9)
    return {"loss": torch.tensor(done.loss, dtype=torch.float64)} | {
        n: p.grad for n, p in named.items() if p.grad is not None
    }


def adapter_of_a_training(dtype: str) -> dict[str, torch.Tensor]:
    """Return the adapter, and the losses, after an epoch without dropout, which has other numbers in each rank."""
    done, adapter = trained(None, model=model_of(dtype), epochs=1)
    return adapter | {"losses": torch.tensor(done.fit.losses, dtype=torch.float64)}


def first_start(place: Path) -> None:
    """Do what the tests look at; the second rank is killed in the last command."""
    rank = ranks.position()[0]
    for dtype in TOLERANCES:
        save_file(gradients_of_a_step(dtype), place / f"gradients-{dtype}-{rank}")
        save_file(adapter_of_a_training(dtype), place / f"adapter-{dtype}-{rank}")
    own = Checkpoints(place / f"own-{rank}", 1, "this")
    if rank == 0:
        own.save(3, {"parameter/a": torch.zeros(1)}, {"step": 3})
    with pytest.raises(InputError, match="found different checkpoints"):
        own.load()
    tune(place, WHOLE)
    if rank == 1:
        die_in_step(5)
    tune(place, KILLED)


def tune(place: Path, name: str) -> None:
    """Give the command, in this process."""
    sys.argv = ["tunelift", "tune", str(place / f"{name}.yaml")]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def die_in_step(number: int) -> None:
    plain, left = loop.train_step, number

    def step(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    loop.train_step = step  # type: ignore[assignment]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of what two ranks wrote: one of them was killed, and the last command was given again."""
    place = tmp_path_factory.mktemp("ranks")
    keys = run_to_kill.keys(place)
    for name in (WHOLE, KILLED):
        (place / f"{name}.yaml").write_text(json.dumps(keys | {"output": str(place / name)}))  # JSON is YAML
    first, said = torchrun(__file__, str(place))
    assert first != 0, "nobody was killed"
    assert "SIGKILL" in said, said
    second, said = torchrun("-m", "tunelift", "tune", str(place / f"{KILLED}.yaml"))
    assert second == 0, said
    return place


def torchrun(*arguments: str) -> tuple[int, str]:
    """Start two ranks; return torchrun's exit code, and what all said on standard error."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    tests = os.pathsep.join(str(Path(__file__).parents[up]) for up in (0, 1))
    environment = os.environ | {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_two_ranks_have_the_loss_and_gradients_of_one(place: Path, dtype: str) -> None:
    one = gradients_of_a_step(dtype)
    for rank in (0, 1):
        assert apart(load_file(place / f"gradients-{dtype}-{rank}"), one) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_two_ranks_train_the_adapter_of_one(place: Path, dtype: str) -> None:
    one = adapter_of_a_training(dtype)
    for rank in (0, 1):
        assert apart(load_file(place / f"adapter-{dtype}-{rank}"), one) < TOLERANCES[dtype]


def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of a tensor, relative to its largest number."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected)


def test_killed_two_ranks_go_on_and_end_in_the_same_bytes(place: Path) -> None:
    """With dropout, whose random numbers differ between the ranks; one of them was killed in step 5."""
    whole, killed = ((place / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in (WHOLE, KILLED))
    assert whole == killed
    events = [json.loads(line) for line in (place / KILLED / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "resumed"] == [4]
    assert run_to_kill.steps_done_again(place / KILLED) == 0
    assert run_to_kill.steps_done_again(place / WHOLE) == 0, "both ranks wrote"
    for name in (WHOLE, KILLED):
        assert json.loads((place / name / "manifest.json").read_text())["status"] == "complete"


def test_commands_that_do_not_share_their_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = from_keywords("train", **run_to_kill.keys(tmp_path), output=str(tmp_path / "run"))
    with pytest.raises(InputError, match="tunelift run works in one process, and torchrun started 2"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_in_one_of_two_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    monkeypatch.setattr(ranks, "position", lambda: (1, 2))
    monkeypatch.setattr(ranks, "of_first", lambda value: value)
    said = r"ran out in process 2 of 2: CUDA out of memory(.|\n)*Lower train\.micro_batch_tokens, which is 40:"
    with pytest.raises(TuneliftError, match=said):
        trained(None, task=Watched(watch))


if __name__ == "__main__":
    with ranks.joined():
        first_start(Path(sys.argv[1]))
