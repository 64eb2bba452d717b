"""A plan before a run: of shapes, of a rehearsal, into a time; what cannot fit is refused before anything is loaded."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import tiny_models
import tunelift
from tunelift.cli.plan import command
from tunelift.config.keywords import from_keywords
from tunelift.core import machine
from tunelift.core.errors import InputError
from tunelift.core.machine import MemoryLimit
from tunelift.models import loader
from tunelift.pipeline.api import run
from tunelift.pipeline.planning import plan, shortened
from tunelift.pipeline.run import run as run_config
from tunelift.pipeline.session import Session
from tunelift.pipeline.stages import tune_stage
from tunelift.planning.plan import RunPlan
from tunelift.training.state import size_of


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where weights are loaded."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loader, "_weights", fail)


def limited_to(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    limit = MemoryLimit("memory.max of the control group", count, count, kills=True)
    monkeypatch.setattr(machine, "memory_limits", lambda: [limit])


def part(found: RunPlan, name: str) -> int:
    return sum(one.bytes for one in found.parts if one.name == name)


@pytest.mark.usefixtures("no_weights")
def test_a_quick_plan_is_of_shapes_and_rows(tiny: dict[str, Any]) -> None:
    found = plan(from_keywords("train", **tiny), quick=True)
    model = tiny_models.causal("llama")
    assert part(found, "weights") == size_of(model.parameters())
    assert found.fits and found.seconds is None and not found.rehearsed
    assert not Path(tiny["output"]).exists()


def test_adapter_and_optimiser_are_those_of_the_training(tiny: dict[str, Any]) -> None:
    config = from_keywords("train", **tiny, adapter={"r": 4})
    found = plan(config, quick=True)
    from tunelift.tasks import TASKS

    session = Session.open(config.model, TASKS.get("causal-lm"))
    session.attach(config.adapter.model_dump(), 0)
    trained = size_of(p for p in session.model.parameters() if p.requires_grad)
    assert part(found, "adapter") == part(found, "gradients") == trained
    assert part(found, "optimiser") == 2 * trained


def test_a_rehearsal_gives_every_stage_its_seconds(tiny: dict[str, Any]) -> None:
    found = plan(from_keywords("train", **tiny))
    names = [stage.name for stage in found.stages]
    for wanted in ("start: Python, rows, model", "base evaluation", "training", "tuned evaluation", "proofs"):
        assert wanted in names
    assert "baseline few-shot" in names
    assert found.seconds is not None and found.seconds > 0
    assert found.rehearsed and found.bytes >= (machine.resident() or pytest.skip("no /proc")).own // 2
    assert not Path(tiny["output"]).exists()
    said = json.loads(json.dumps(found.to_dict()))
    assert said["bytes"] == found.bytes and "together" in str(found)


@pytest.mark.usefixtures("no_weights")
def test_a_run_that_cannot_fit_ends_before_its_base_is_loaded(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(monkeypatch, 10**6)
    with pytest.raises(InputError, match="does not fit into memory") as error:
        run(**tiny)
    assert "weights" in str(error.value) and "--anyway" in str(error.value)
    assert not (Path(tiny["output"]) / "manifest.json").exists()


def test_it_goes_on_anyway_where_that_is_asked_for(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_to(monkeypatch, 10**6)
    comparison = run_config(from_keywords("train", **tiny), anyway=True)
    assert comparison.to_dict()
    assert "does not fit" in capsys.readouterr().err


def test_a_plan_that_is_only_likely_to_fail_refuses_nothing(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = machine.resident()
    if now is None:
        pytest.skip("the system does not say what a process has")
    limited_to(monkeypatch, now.all + 30 * 10**6)
    run(**tiny)
    assert "plan: " in capsys.readouterr().err


def test_a_run_says_its_plan_at_its_start(tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(**tiny)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: ")]
    assert len(said) == 1 and "of memory" in said[0] and "it fits" in said[0]


def test_a_time_gives_fewer_epochs_and_items_and_still_a_verdict(tiny: dict[str, Any]) -> None:
    tiny["train"] = {"epochs": 400, "learning_rate": 0.01}
    config = from_keywords("train", **tiny)
    found = plan(config)
    assert found.seconds is not None
    fixed = found.least
    asked = fixed + 0.3 * (found.seconds - fixed)
    fitted = found.fitted_into(asked)
    assert fitted is not None and fitted.epochs < 400 and fitted.seconds <= asked
    assert found.keys_of(fitted)["train.epochs"] == fitted.epochs
    short = shortened(config, 4 * asked + 60)
    assert short.train.epochs <= 400
    with pytest.raises(InputError, match="does not fit into"):
        shortened(config, 0.5)


def test_a_run_that_was_shortened_goes_on_with_what_it_was_begun_with(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits differs from one look to the next; the same command goes on all the same."""
    config = from_keywords("train", **tiny)
    fits = [{"data.max_test": 12, "train.steps": 2}, {"data.max_test": 11, "train.steps": 1}]
    monkeypatch.setattr("tunelift.planning.plan.RunPlan.keys_of", lambda self, found: fits[0])
    began = shortened(config, 1e6)
    assert (began.data.max_test, began.train.steps) == (12, 2)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("tunelift.pipeline.run.measure_baselines", killed)
        run_config(began)
    del fits[0]
    again = shortened(config, 1e6)
    assert again.model_dump() == began.model_dump()
    assert run_config(again).to_dict()


def test_another_machine_is_planned_for_by_shapes(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**tiny, "model": {"name": tiny["model"], "dtype": "float32"}} | {"dtype": None}))
    written = yaml.safe_load(config.read_text())
    del written["dtype"]
    config.write_text(yaml.safe_dump(written))
    done = CliRunner().invoke(command, [str(config), "--machine", "64MB", "--json"], standalone_mode=False)
    if done.exception:
        raise done.exception
    said = json.loads(done.stdout)
    assert said["limits"] == [{"name": "asked for", "bytes": 64 * 10**6, "hard": 64 * 10**6, "kills": True}]
    assert not said["fits"] and said["available_bytes"] is None
    with pytest.raises(InputError, match="Leave out --quick and --machine"):
        plan(from_keywords("train", **tiny), memory=10**9, within=60.0)


@pytest.mark.parametrize("asked", ["much", "0GB", "-1GB", "8 apples"])
def test_what_is_no_size_is_refused(asked: str) -> None:
    done = CliRunner().invoke(command, ["--machine", asked])
    assert done.exit_code == 2 and "is no size" in done.output


@pytest.mark.parametrize("asked", ["soon", "0", "30x", "m"])
def test_what_is_no_time_is_refused(asked: str) -> None:
    done = CliRunner().invoke(command, ["--for", asked])
    assert done.exit_code == 2 and "is no time" in done.output


PLANNED = """
import sys
from tunelift.config.load import load_config
from tunelift.core import machine
from tunelift.pipeline.planning import plan
found, now = plan(load_config("config.yaml")), machine.resident()
print(found.bytes + now.data - now.own)
"""


def test_a_process_that_is_limited_to_what_is_planned_runs_through(tiny: dict[str, Any], tmp_path: Path) -> None:
    """RLIMIT_DATA counts what libraries reserve and never touch too: as much as the planning process has of that."""
    if not sys.platform.startswith("linux"):
        pytest.skip("RLIMIT_DATA counts private memory on Linux")
    config = {
        "model": {"name": tiny["model"], "dtype": "float32"}, "data": tiny["data"], "train": tiny["train"],
        "output": tiny["output"], "evaluate": {"cache": False},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    own = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", PLANNED], cwd=tmp_path, env=own, stdout=subprocess.PIPE, check=True)
    limit = int(said.stdout)
    done = subprocess.run(
        [sys.executable, "-m", "tunelift", "run", "config.yaml"], cwd=tmp_path, env=own, capture_output=True, text=True,
        check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "out of memory" not in done.stderr


def test_of_a_gpu_it_is_not_said_whether_a_run_fits(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelift.pipeline.planning.on_cpu", lambda section: False)
    limited_to(monkeypatch, 10**6)
    config = from_keywords("train", **tiny)
    found = plan(config)
    assert "would be on a GPU" in str(found) and "fits:" not in str(found) and ": it fits" not in str(found)
    assert found.limit is None and not found.changes and found.seconds
    same = [part.name for part in plan(config, quick=True).parts]
    assert not found.rehearsed
    assert [part.name for part in found.parts] == same, "this process's memory says nothing of a GPU's"
    assert "would be on a GPU" not in str(plan(config, memory=10**9))


@pytest.mark.usefixtures("no_weights")
def test_it_is_a_python_function_with_the_keywords_of_a_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    found = tunelift.plan(**tiny, adapter={"r": 4}, quick=True)
    assert found.fits and "of memory" in str(found)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": tiny["model"], "data": tiny["data"]}))
    assert not tunelift.plan("config.yaml", memory=10**6).fits
    with pytest.raises(InputError, match="not both"):
        tunelift.plan("config.yaml", epochs=2)
    with pytest.raises(InputError, match="no such keyword"):
        tunelift.plan(**tiny, memroy=3)


@pytest.mark.usefixtures("no_weights")
def test_a_tune_that_cannot_fit_ends_before_its_base_is_loaded(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited_to(monkeypatch, 10**6)
    with pytest.raises(InputError, match="does not fit into memory") as error:
        tune_stage(from_keywords("train", **tiny))
    assert "--anyway" in str(error.value)
    assert not Path(tiny["output"]).exists()


def test_a_tune_says_its_plan_and_goes_on_anyway(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_to(monkeypatch, 10**6)
    assert tune_stage(from_keywords("train", **tiny), anyway=True).is_dir()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: ")]
    assert len(said) == 1 and "does not fit" in said[0]
