"""Cut off anywhere, a training goes on from its last checkpoint and ends in the same bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_trainings import CutOffError, Watched, cut_off, fingerprint, trained

import tiny_models
from tunelift.core.errors import InputError, TuneliftError
from tunelift.tasks.base import Batch
from tunelift.training.checkpoint import Checkpoints
from tunelift.training.events import EventLog
from tunelift.training.state import State
from tunelift.training.step import is_out_of_memory

PATIENT = {"evaluate_every": 2, "patience": 2, "held_out": 5}


@pytest.fixture(scope="module", params=[{}, PATIENT], ids=["plain", "validation"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the settings, the number of events, the account and the adapter of a training that nothing cuts off."""
    seen: list[str] = []
    settings = request.param
    folder = tmp_path_factory.mktemp("whole")
    done, adapter = trained(folder, [lambda event, **_: seen.append(event)], **settings)
    return settings, len(seen), done, adapter


class Heard:
    """Notes which events there were."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def __call__(self, event: str, **figures: Any) -> None:
        self.events.append(event)


def account(done: Any) -> dict[str, Any]:
    fit = done.fit
    return {"losses": fit.losses, "best": (fit.best_step, fit.best_loss), "stopped": fit.stopped, "tokens": fit.tokens}


def test_keeping_the_state_changes_nothing(whole: Any) -> None:
    settings, _, done, adapter = whole
    without, same = trained(None, **settings)
    assert account(without) == account(done)
    assert fingerprint(same) == fingerprint(adapter)


def test_cut_off_anywhere_it_ends_in_the_same_bytes(whole: Any, tmp_path: Path) -> None:
    """All three epochs, before and after looks at validation; cut off again on the way, if there is a way left."""
    settings, events, done, adapter = whole
    cuts = range(2, events + 1, 5)
    for after in cuts:
        folder = tmp_path / str(after)
        seen = cut_off(folder, after, **settings)
        left = events - seen.count("train") - 1
        if left > 4:
            cut_off(folder, 3, **settings)
        events_again: list[str] = []
        again, same = trained(folder, [Heard(events_again)], **settings)
        assert account(again) == account(done), after
        assert fingerprint(same) == fingerprint(adapter), after
        assert events_again.count("train") <= 12 - seen.count("train") + 2, "more than save_every steps were done again"
    assert len(cuts) >= 3


def test_cut_off_inside_an_accumulation_window(tmp_path: Path) -> None:
    _, adapter = trained(None)
    model = tiny_models.adapted(tiny_models.causal("llama"), lora_dropout=0.1)

    def watch(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        begun = any(p.grad is not None for p in model.parameters())
        if begun and len(list(tmp_path.iterdir())) == 2:
            raise CutOffError
        return loss

    with pytest.raises(CutOffError):
        trained(tmp_path, model=model, task=Watched(watch))
    _, same = trained(tmp_path)
    assert fingerprint(same) == fingerprint(adapter)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    _, adapter = trained(tmp_path)
    seen: list[str] = []
    _, same = trained(tmp_path, [lambda event, **_: seen.append(event)])
    assert seen == ["resumed", "end"]
    assert fingerprint(same) == fingerprint(adapter)


def test_all_random_numbers_come_back() -> None:
    toy = torch.nn.Linear(2, 2)
    state = State(toy, 0.1, 0.0)
    tensors, facts = state.tensors(), json.loads(json.dumps(state.facts()))
    drawn = random.random(), float(np.random.rand()), float(torch.rand(1))
    state.put_back(tensors, facts)
    assert (random.random(), float(np.random.rand()), float(torch.rand(1))) == drawn


def test_random_numbers_are_those_of_the_gpu_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    numbers = torch.zeros(3, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or numbers)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, device: asked.append(device))
    state = State(torch.nn.Linear(2, 2), 0.1, 0.0)
    state.device = torch.device("cuda", 1)
    state.put_back(state.tensors(), state.facts())
    assert asked == [torch.device("cuda", 1)] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_steps_below_the_rounding_of_a_parameter_add_up_and_come_back(dtype: torch.dtype) -> None:
    def steps(state: State, count: int) -> None:
        for _ in range(count):
            for parameter in state.parameters.values():
                parameter.grad = torch.ones_like(parameter)
            state.gather()
            state.move()
            state.clear()

    def begun() -> tuple[torch.nn.Linear, State]:
        toy = torch.nn.Linear(2, 2).to(dtype)
        torch.nn.init.constant_(toy.weight, 1.0)
        return toy, State(toy, 1e-4, 0.0)

    toy, state = begun()
    steps(state, 130)
    again, resumed = begun()
    resumed.put_back(state.tensors(), state.facts())
    for some in (state, resumed):
        steps(some, 130)
    assert torch.equal(toy.weight, again.weight)
    assert torch.allclose(toy.weight.float(), torch.full((2, 2), 1 - 260e-4), atol=4e-3)  # half a bfloat16 below 1


def test_the_last_two_are_kept_and_other_trainings_are_refused(tmp_path: Path) -> None:
    cut_off(tmp_path, 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]
    with pytest.raises(InputError, match="is of another training"):
        trained(tmp_path, learning_rate=0.02)
    trained(tmp_path, save_every=5)  # how often it is kept is no other training


def test_other_fast_paths_than_before_are_told(tmp_path: Path) -> None:
    state: Any = ({"a": torch.zeros(1)}, {"step": 1})
    Checkpoints(tmp_path, 1, "this", {"head": "on"}).save(1, *state)
    same, other = (Checkpoints(tmp_path, 1, "this", {"head": said}) for said in ("on", "off: no head"))
    assert same.load() is not None
    assert other.load() is not None
    assert same.faults == []
    assert other.faults == [
        (
            "fast paths were {'head': 'on'} and are {'head': 'off: no head'}",
            "training goes on; its last digits may differ",
        )
    ]


def test_no_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    cut_off(tmp_path, 5)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "tensors.safetensors",
        "state.json",
        "manifest.json",
    }


def test_a_flipped_bit_in_any_file_is_seen_and_the_one_before_is_used(tmp_path: Path) -> None:
    _, adapter = trained(None)
    cut_off(tmp_path, 7)
    older, newer = sorted(tmp_path.iterdir())
    before = {file: file.read_bytes() for file in newer.iterdir()}
    draw = random.Random(0)
    for file, content in before.items():
        for _ in range(25):
            at = draw.randrange(len(content))
            flipped = content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]
            file.write_bytes(flipped)
            store = Checkpoints(tmp_path, 2, made_for_of(older))
            loaded = store.load()
            assert loaded is not None
            assert loaded[1]["fit"]["steps"] == 4, f"byte {at} of {file.name}"
            assert [done for _, done in store.faults][:1] == ["it was removed; the one before it is taken"]
            newer.mkdir()
            for other, whole_content in before.items():
                other.write_bytes(whole_content)
    file.write_bytes(flipped)
    faults: list[dict[str, Any]] = []
    _, same = trained(tmp_path, [lambda event, **f: faults.append(f) if event == "fault" else None])
    assert faults[0]["done"] == "it was removed; the one before it is taken"
    assert fingerprint(same) == fingerprint(adapter)


def made_for_of(checkpoint: Path) -> str:
    return str(json.loads((checkpoint / "state.json").read_text())["made_for"])


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "half"])
def test_a_file_that_is_missing_or_cut_is_seen(tmp_path: Path, name: str, how: str) -> None:
    cut_off(tmp_path, 7)
    older, newer = sorted(tmp_path.iterdir())
    content = (newer / name).read_bytes()
    (newer / name).unlink()
    if how != "missing":
        (newer / name).write_bytes(content[: 0 if how == "empty" else len(content) // 2])
    loaded = Checkpoints(tmp_path, 2, made_for_of(older)).load()
    assert loaded is not None
    assert loaded[1]["fit"]["steps"] == 4


def test_with_every_checkpoint_damaged_training_begins_anew(tmp_path: Path) -> None:
    _, adapter = trained(None)
    cut_off(tmp_path, 7)
    for file in tmp_path.glob("*/manifest.json"):
        file.write_text("{}")
    done: list[str] = []
    _, same = trained(tmp_path, [lambda event, **f: done.append(f["done"]) if event == "fault" else None])
    assert done == ["it was removed; the one before it is taken"] * 2 + ["training begins anew"]
    assert fingerprint(same) == fingerprint(adapter)


NO_MEMORY = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "cpu, windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    "apple": RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("where", NO_MEMORY)
def test_every_way_to_say_that_memory_ran_out_is_known(where: str) -> None:
    assert is_out_of_memory(NO_MEMORY[where])
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("where", ["cpu", "python"])
def test_memory_that_runs_out_halves_the_micro_batch_with_the_same_gradient(tmp_path: Path, where: str) -> None:
    settings: Any = {"model": no_dropout(), "micro_batch_tokens": 200, "epochs": 1, "save_every": 1}
    expected, adapter = trained(None, **settings)
    sizes: list[int] = []

    def watch(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        sizes.append(batch.rows)
        if batch.rows > 1 and batch.tokens > 40:
            raise NO_MEMORY[where]
        return loss

    faults: list[str] = []
    settings |= {
        "listeners": [lambda event, **f: faults.append(f["done"]) if event == "fault" else None],
        "task": Watched(watch),
    }
    done, halved = trained(tmp_path, **settings | {"model": no_dropout()})
    assert faults == [f"micro-batches of {200 // 2**n} tokens from here on" for n in range(1, len(faults) + 1)]
    assert 1 <= len(faults) <= 3
    assert max(sizes) > 1, "only single rows were left"
    assert done.fit.losses == pytest.approx(expected.fit.losses, rel=1e-5)
    worst = max(float((adapter[name] - halved[name]).abs().max() / adapter[name].abs().max()) for name in adapter)
    assert worst < 1e-4
    kept = json.loads((max(tmp_path.iterdir()) / "state.json").read_text())["micro_batch_tokens"]
    assert kept == 200 // 2 ** len(faults)
    faults.clear()
    trained(tmp_path, **settings | {"model": no_dropout()})
    assert faults == []


@pytest.mark.parametrize(("asked", "most"), [(200, 80), (40, 40)])
def test_a_micro_batch_asked_for_since_holds_if_it_is_smaller(tmp_path: Path, asked: int, most: int) -> None:
    """As after the system itself ended the process for want of memory."""
    cut_off(tmp_path, 7, micro_batch_tokens=80)
    seen: list[int] = []

    def watch(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        seen.append(batch.tokens)
        return loss

    trained(tmp_path, task=Watched(watch), micro_batch_tokens=asked)
    assert most / 2 < max(seen) <= most


def no_dropout() -> Any:
    return tiny_models.adapted(tiny_models.causal("llama"))


def test_memory_that_runs_out_for_one_row_is_an_error_that_says_so() -> None:
    def watch(batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    with pytest.raises(TuneliftError, match=r"does not suffice for a single row: CUDA out of memory(.|\n)*max_length"):
        trained(None, task=Watched(watch))


class Poison:
    """Makes the loss NaN in some steps."""

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.step = steps, 1

    def watch(self, batch: Batch, loss: torch.Tensor) -> torch.Tensor:
        return loss * float("nan") if self.step in self.steps else loss

    def __call__(self, event: str, **figures: Any) -> None:
        if event in ("train", "fault"):
            self.step = figures["step"] + 1


def test_a_step_without_a_finite_loss_is_skipped_and_counted(tmp_path: Path) -> None:
    faults, poison = list[dict[str, Any]](), Poison({3, 7})
    listeners = [poison, lambda event, **f: faults.append(f) if event == "fault" else None]
    done, adapter = trained(tmp_path, listeners, task=Watched(poison.watch))
    assert (done.fit.steps, done.fit.skipped, len(done.fit.losses)) == (12, 2, 10)
    assert [(f["step"], f["done"]) for f in faults] == [(3, "the step was skipped"), (7, "the step was skipped")]
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())


def test_ten_in_a_row_end_the_training_with_the_last_good_adapter() -> None:
    model, poison, kept = no_dropout(), Poison(set(range(5, 99))), dict[int, str]()

    def listener(event: str, **figures: Any) -> None:
        if event == "train":
            kept[figures["step"]] = fingerprint({n: p.detach() for n, p in model.named_parameters() if p.requires_grad})

    done, adapter = trained(None, [poison, listener], model=model, task=Watched(poison.watch), steps=20)
    assert done.fit.stopped == "10 steps in a row without a finite loss"
    assert (done.fit.steps, done.fit.skipped) == (14, 10)
    assert fingerprint(adapter) == kept[4] != kept[3]


def test_a_disk_without_room_is_found_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    steps: list[str] = []
    with pytest.raises(TuneliftError, match=r"takes 1 MB: checkpoints 1 MB(.|\n)*Make room for 1 MB more"):
        trained(tmp_path, [lambda event, **_: steps.append(event)])
    assert steps == []


def test_events_are_gone_on_with_and_a_line_cut_off_is_taken_out(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file)
    log("train", step=1)
    log.close()
    whole = file.read_text()
    file.write_text(whole + '{"event": "tra')
    log = EventLog(file)
    log("resumed", step=1)
    log.close()
    assert file.read_text() == whole + '{"event": "resumed", "step": 1}\n'
