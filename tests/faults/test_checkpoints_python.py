"""`tunelift.tune` in Python, with an output folder: the same call goes on where it was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import run_to_kill
from checkpoint_trainings import in_child
from peft import LoraConfig, get_peft_model

import tiny_models
import tunelift
from tunelift.core.errors import InputError
from tunelift.pipeline import api
from tunelift.pipeline.folder import locked
from tunelift.training import loop

ROWS = [{"prompt": f"ball {i}", "completion": [" sports", " tech"][i % 2]} for i in range(40)]
SETTINGS = {"steps": 10, "save_every": run_to_kill.SAVE_EVERY, "learning_rate": 0.01, "batch_size": 4}


def plain(output: Path, seed: int = 0, alpha: int = 16, **settings: Any) -> None:
    adapter = {"lora_dropout": 0.1, "lora_alpha": alpha}
    model, tokenizer = tiny_models.causal("llama", seed=seed), tiny_models.tokenizer()
    tunelift.tune(model, tokenizer, ROWS, adapter=adapter, output=output, **{**SETTINGS, **settings})


def with_an_adapter_on(output: Path) -> None:
    """Give a model whose new weights are others at each start, as where nobody set a seed."""
    model = get_peft_model(tiny_models.causal("llama"), LoraConfig(target_modules="all-linear", lora_dropout=0.1))
    tunelift.tune(model, tiny_models.tokenizer(), ROWS, output=output, **SETTINGS)


def kill_at_call(module: Any, name: str, number: int) -> None:
    """Have this process get SIGKILL at the start of the `number`-th call of a function."""
    whole, left = getattr(module, name), number

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)

    setattr(module, name, call)


def killed(tune: Callable[[Path], None], output: Path, *where: Any) -> None:
    def action() -> None:
        kill_at_call(*where)
        tune(output)

    assert in_child(action) == -signal.SIGKILL


def adapter_of(output: Path) -> bytes:
    return (output / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the adapter of a tune that nothing stops."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert in_child(lambda: plain(output)) == 0
    return adapter_of(output)


@pytest.mark.parametrize("where", [(loop, "train_step", 6), (api, "prove", 1)], ids=["training", "proofs"])
def test_killed_it_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, whole: bytes, where: Any) -> None:
    output = tmp_path / "out"
    killed(plain, output, *where)
    assert in_child(lambda: plain(output)) == 0
    assert adapter_of(output) == whole
    assert run_to_kill.steps_done_again(output) <= run_to_kill.SAVE_EVERY
    assert '"event": "resumed"' in (output / "events.jsonl").read_text()
    assert not (output / "checkpoints").exists()
    with pytest.raises(InputError, match="is not empty"):
        plain(output)


def test_killed_before_the_first_checkpoint_it_begins_anew(tmp_path: Path, whole: bytes) -> None:
    killed(plain, tmp_path / "out", loop, "train_step", 2)
    assert in_child(lambda: plain(tmp_path / "out")) == 0
    assert adapter_of(tmp_path / "out") == whole


def test_an_adapter_that_begins_with_other_numbers_goes_on_with_the_first(tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed(with_an_adapter_on, output, loop, "train_step", 6)
    assert in_child(lambda: with_an_adapter_on(output)) == 0
    assert '{"event": "resumed"' in (output / "events.jsonl").read_text()
    assert run_to_kill.steps_done_again(output) <= run_to_kill.SAVE_EVERY


def test_another_training_is_refused(tmp_path: Path) -> None:
    output, others = tmp_path / "out", [{"seed": 1}, {"alpha": 4}, {"learning_rate": 0.02}]
    killed(plain, output, loop, "train_step", 6)
    for other in others:
        with pytest.raises(InputError, match="its model, rows, settings or adapter differ"):
            plain(output, **other)  # type: ignore[arg-type]
    plain(output, micro_batch_tokens=64)  # which changes last digits only


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(InputError, match="in use by a run that is still at work"):
        plain(tmp_path / "out")


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        plain(tmp_path / "out")
