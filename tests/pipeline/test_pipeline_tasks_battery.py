"""Every task with every kind of method, from rows to a report: proofs, scores that come again, and stock reading it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import task_battery
import tunelift
from task_battery import BENCHES, METHODS, one_item, outputs, prepared
from tunelift.config.load import load_config
from tunelift.core.records import Scores
from tunelift.tasks import TASKS


def pairs() -> list[tuple[str, str]]:
    return [(task, method) for task in TASKS for method in METHODS if TASKS.get(task).has_head or method != "head"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what makes a run of a task and a method, once: its folder and its keywords."""

    @cache
    def settings(task: str) -> dict[str, Any]:
        return prepared(task, tmp_path_factory.mktemp(task))

    @cache
    def of(task: str, method: str) -> tuple[Path, dict[str, Any]]:
        keys = settings(task)
        out = Path(keys["model"]).parent / method
        tunelift.run(**keys, adapter={"method": method}, output=str(out))
        return out, keys

    return of


def test_no_task_is_forgotten() -> None:
    assert sorted(BENCHES) == sorted(TASKS), "tests/task_battery.py has a Bench for each task"


def test_the_configs_of_examples_are_read_for_their_tasks() -> None:
    files = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
    found = {file.stem.replace("_", "-"): load_config(file) for file in files}
    assert {config.task for config in found.values()} <= set(TASKS)
    assert found["multiple-choice"].train.learning_rate == 5e-4


@pytest.mark.parametrize(("task", "method"), pairs())
def test_a_run_is_proved_and_says_the_same_again(task: str, method: str, made: Any) -> None:
    out, keys = made(task, method)
    manifest, kind = json.loads((out / "manifest.json").read_text()), TASKS.get(task)
    proofs = {proof["name"]: proof["passed"] for proof in manifest["proofs"]}
    assert all(proofs.values())
    assert len(proofs) >= 7
    assert {"labels are the answers", "the loss is over the labels"} < set(proofs)
    for name in ("report.html", "report.md", "README.md"):
        assert (out / name).stat().st_size > 500
    assert kind.auto_class in (out / "README.md").read_text().replace("AutoPeftModel", "AutoModel")
    before, after = Scores.read(out / "base"), Scores.read(out / "tuned")
    assert list(before.metrics) == list(after.metrics) != []
    assert before.info["unscored"] == after.info["unscored"] == 0
    assert any(a["log_likelihood"] != b["log_likelihood"] for a, b in zip(before.rows, after.rows, strict=True))
    made_of = out / ("model" if method == "full" else "adapter")
    model = {} if method == "full" else {"adapter": str(made_of)}
    again = tunelift.load(str(made_of) if method == "full" else keys["model"], task=task, dtype="float32", **model)
    found = tunelift.evaluate(*again, data=keys["data"]["test"], task=task, metrics=list(after.metrics))
    for name, value in found.metrics.items():
        assert math.isclose(value, after.metrics[name], rel_tol=1e-4, abs_tol=1e-6), name


def test_stock_reads_each_in_a_process_of_its_own(made: Any) -> None:
    jobs, expected = [], []
    for task, method in pairs():
        out, keys = made(task, method)
        kind, whole = TASKS.get(task), method == "full"
        folder = out / ("model" if whole else "adapter")
        labels = json.loads((folder / "tunelift.json").read_text())["labels"] if kind.has_head else []
        loaded = (
            tunelift.load(str(folder), task=task, dtype="float32")
            if whole
            else tunelift.load(keys["model"], task=task, adapter=str(folder), dtype="float32")
        )
        inputs = one_item(task, keys["data"]["test"], loaded[1], labels)
        expected.append(outputs(loaded[0], inputs))
        count = kind.outputs or len(labels) if kind.has_head else 0
        jobs.append({
            "auto_class": kind.auto_class, "model": str(folder) if whole else keys["model"],
            "adapter": None if whole else str(folder),
            "options": {"num_labels": count} if count and not whole else {},
            "inputs": {name: value.tolist() for name, value in inputs.items()},
        })  # fmt: skip
    told = subprocess.run(
        [sys.executable, task_battery.__file__], input=json.dumps(jobs), capture_output=True, text=True, check=True
    )
    for (task, method), ours, theirs in zip(pairs(), expected, json.loads(told.stdout), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), (task, method)
        assert ours, (task, method)
