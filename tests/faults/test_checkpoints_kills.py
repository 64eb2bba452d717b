"""Whole runs, killed at random times or asked to stop: the same command goes on and ends in the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import run_to_kill
from checkpoint_trainings import in_child

from tunelift.cli.main import cli
from tunelift.config.keywords import from_keywords
from tunelift.core.errors import InputError
from tunelift.evaluation.measures import Measure
from tunelift.pipeline.folder import RunFolder
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training import loop

KILLS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kills")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELIFT_CACHE", str(folder / "cache"))
        patch.setattr(Measure, "at_once", run_to_kill.ITEMS_AT_ONCE)
        yield folder


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[dict[str, str], int]:
    """Return the result of a run that nothing stops, and how many events it has at which it might be killed."""
    assert in_child(lambda: run_to_kill.run_killed(place, place / "whole", after=10**9)) == 0
    return run_to_kill.result(place / "whole"), int((place / "events").read_text())


@pytest.mark.parametrize("point", range(KILLS))
def test_killed_anywhere_the_same_command_ends_in_the_same_bytes(
    place: Path, whole: tuple[dict[str, str], int], point: int
) -> None:
    """Inside a write of a manifest, a checkpoint, the adapter or scores, or some instants later."""
    expected, events = whole
    after, delay = events * (2 * point + 1) // (2 * KILLS), 0.0 if point % 2 else 0.002
    output = place / str(point)
    assert in_child(lambda: run_to_kill.run_killed(place, output, after, delay)) == -signal.SIGKILL
    assert in_child(lambda: run_to_kill.run_in(place, output)) == 0
    assert run_to_kill.result(output) == expected
    assert run_to_kill.steps_done_again(output) <= run_to_kill.SAVE_EVERY
    assert [*output.rglob("*.part"), *output.rglob("*.old")] == []
    assert not (output / "checkpoints").exists()


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_killed_while_it_scores_no_item_is_scored_twice_but_those_in_work(
    place: Path, whole: tuple[dict[str, str], int], side: str
) -> None:
    output = place / f"scoring-{side}"
    assert in_child(lambda: run_to_kill.run_noting_items(place, output, side, parts=2)) == -signal.SIGKILL
    assert not (output / side).exists()
    assert in_child(lambda: run_to_kill.run_noting_items(place, output)) == 0
    assert run_to_kill.result(output) == whole[0]
    for measured in ("base", "tuned"):
        times = sorted(run_to_kill.items_computed(output, measured).values())
        twice = run_to_kill.ITEMS_AT_ONCE if measured == side else 0
        assert times == [1] * (20 - twice) + [2] * twice
    assert json.loads((output / side / "metrics.json").read_text())["from_cache"] == run_to_kill.ITEMS_AT_ONCE


def test_killed_again_and_again(place: Path, whole: tuple[dict[str, str], int]) -> None:
    expected, events = whole
    draw, output = random.Random(0), place / "again"
    for _ in range(2):
        after = draw.randrange(events // 4, events // 2)
        assert in_child(lambda after=after: run_to_kill.run_killed(place, output, after)) == -signal.SIGKILL  # type: ignore[misc]
    assert in_child(lambda: run_to_kill.run_in(place, output)) == 0
    assert run_to_kill.result(output) == expected
    assert run_to_kill.steps_done_again(output) <= 2 * run_to_kill.SAVE_EVERY
    happened = json.loads((output / "manifest.json").read_text())["happened"]
    assert sum("ended without a word" in line["what"] for line in happened) >= 1


def command(place: Path, output: Path, prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run the real command in a child, once `prepare` was called there; return its exit code and its stderr."""
    said, config = place / f"{output.name}.err", place / f"{output.name}.yaml"
    config.write_text(json.dumps(run_to_kill.keys(place) | {"output": str(output)}))  # JSON is YAML

    def action() -> None:
        prepare()
        sys.stderr = said.open("w", buffering=1)
        os.dup2(sys.stderr.fileno(), 2)
        sys.argv = ["tunelift", "run", str(config), "-q"]
        cli.main()

    return in_child(action), said.read_text()


def signalled(at: Callable[[], bool], numbers: list[int]) -> Callable[[], None]:
    """Return what makes a training signal itself, in a step, once `at()` is true."""

    def prepare() -> None:
        plain, due = loop.train_step, list(numbers)

        def step(*arguments: Any) -> Any:
            while due and at():
                os.kill(os.getpid(), due.pop(0))
            return plain(*arguments)

        loop.train_step = step  # type: ignore[assignment]

    return prepare


def after_step(output: Path, step: int) -> Callable[[], bool]:
    def reached() -> bool:
        events = output / "events.jsonl"
        return events.is_file() and f'"step": {step},' in events.read_text()

    return reached


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_step_and_the_same_command_goes_on(
    place: Path, whole: tuple[dict[str, str], int], number: int, code: int
) -> None:
    output = place / f"signal-{number}"
    found, said = command(place, output, signalled(after_step(output, 5), [number]))
    assert found == code, said
    assert "once more stops at once" in said
    assert f"Interrupted.\nWhat was complete is kept. To go on: tunelift run {output}.yaml -q\n" in said
    assert json.loads((output / "manifest.json").read_text())["status"] == "interrupted"
    assert max(p.name for p in (output / "checkpoints").iterdir()) == "step-00000006"
    if number == signal.SIGINT:
        assert command(place, output)[0] == 0
        assert run_to_kill.result(output) == whole[0]
        assert run_to_kill.steps_done_again(output) == 0


def test_twice_ends_it_at_once(place: Path) -> None:
    output = place / "twice"
    found, _ = command(place, output, signalled(after_step(output, 5), [signal.SIGINT, signal.SIGINT]))
    assert found == 130
    assert max(p.name for p in (output / "checkpoints").iterdir()) == "step-00000004"


def test_a_disk_that_fills_up_ends_it_with_what_was_kept(place: Path, whole: tuple[dict[str, str], int]) -> None:
    output = place / "full"

    def prepare() -> None:
        plain = Path.write_bytes

        def write(self: Path, data: bytes) -> int:
            if "step-00000006" in str(self):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(self, data)

        Path.write_bytes = write  # type: ignore[method-assign, assignment]

    found, said = command(place, output, prepare)
    assert found == 1
    assert "No checkpoint could be made after step 6: [Errno 28] No space left on device; step-00000004 is left" in said
    assert "Make room there, and give the same command again." in said
    assert command(place, output)[0] == 0
    assert run_to_kill.result(output) == whole[0]
    happened = json.loads((output / "manifest.json").read_text())["happened"]
    assert "No checkpoint could be made" in happened[0]["what"]


def test_a_folder_in_use_is_refused_and_another_config_too(place: Path) -> None:
    output, keys = place / "used", run_to_kill.keys(place)
    config = from_keywords("train", **keys, output=str(output))
    late = RunFolder.open(config, "run")
    with (
        RunFolder.open(config, "run").begun(),
        pytest.raises(InputError, match="in use by a run that is still at work"),
    ):
        RunFolder.open(config, "run")
    with pytest.raises(InputError, match="was written by another run just now"), late.begun():
        raise AssertionError
    (output / "checkpoints").mkdir()
    other = from_keywords("train", **{**keys, "train": {**keys["train"], "learning_rate": 0.5}}, output=str(output))
    with pytest.raises(InputError, match=r"what differs: train\.learning_rate"):
        RunFolder.open(other, "run")
    oftener = from_keywords("train", **{**keys, "train": {**keys["train"], "save_every": 1}}, output=str(output))
    assert RunFolder.open(oftener, "run").manifest["status"] == "running"


def test_the_precision_is_taken_from_the_folder_and_not_measured_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = run_to_kill.keys(place)
    keys["model"] = {"name": keys["model"]["name"]}
    config = from_keywords("train", **keys, output=str(place / "precision"))
    folder = RunFolder.open(config, "run")
    with folder.begun(dtype="bfloat16", dtype_reason="measured long ago"):
        (folder.path / "base").mkdir()
    monkeypatch.setattr("tunelift.models.precision.probe", lambda: pytest.fail("it was measured again"))
    session = Session.of_run(RunFolder.open(config, "run"), TASKS.get("causal-lm"), [])
    assert str(session.model.dtype) == "torch.bfloat16"
    assert session.dtype_reason == "measured long ago"
