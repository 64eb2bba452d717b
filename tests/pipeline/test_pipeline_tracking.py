"""Trackers are told losses, and the verdict with its interval, and read back by their own libraries."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tunelift.config.keywords import from_keywords
from tunelift.core import progress
from tunelift.core.errors import InputError
from tunelift.pipeline import tracking
from tunelift.pipeline.run import run
from tunelift.pipeline.tracking import TRACKERS, tell_verdict, tracked

STEPS = [(1, 3.0), (2, 2.5), (3, 2.25)]
COMPARISON: dict[str, Any] = {
    "headline": {"metric": "accuracy", "against": "tf-idf", "verdict": "better", "sentence": "The tuned is better."},
    "metrics": {
        "accuracy": {"base": 0.5, "tuned": 0.9, "difference": 0.4, "interval": [0.3, 0.5]},
        "loss": {"base": None, "tuned": 0.1, "difference": None, "interval": None},
    },
    "baselines": {"tf-idf": {"base": 0.7, "tuned": 0.9, "difference": 0.2, "interval": [0.1, 0.3]}},
}
EXPECTED = {"verdict/difference": 0.2, "verdict/interval_low": 0.1, "verdict/interval_high": 0.3, "accuracy/tuned": 0.9}


def told_of(folder: Path, name: str) -> None:
    """Tell a tracker of a training that was cut off and went on, and of its verdict."""
    folder.mkdir(exist_ok=True)
    for some in (STEPS[:2], STEPS[2:]):
        with tracked(folder, [name], {"train.epochs": 1, "model.name": "tiny"}) as trackers:
            assert list(trackers.trackers) == [name]
            for step, loss in some:
                trackers("train", step=step, loss=loss, learning_rate=1e-3, tokens_per_second=10.0)
            trackers("validation", step=some[-1][0], loss=some[-1][1] + 1, best=True)
            trackers("fault", step=3, what="", done="")
            assert trackers.trackers, "nothing failed"
    tell_verdict(folder, [name], {"train.epochs": 1}, COMPARISON)


def test_tensorboard_reads_what_it_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told_of(tmp_path / "run", "tensorboard")
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == STEPS
    assert [one.value for one in read.Scalars("validation/loss")] == [3.5, 3.25]
    found = {name: read.Scalars(name)[-1].value for name in EXPECTED}
    assert found == pytest.approx(EXPECTED)
    assert "loss/base" not in read.Tags()["scalars"], "what is no number is left out"
    assert read.Tensors("verdict/text_summary")[0].tensor_proto.string_val[0] == b"better"


def test_mlflow_reads_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow is there without the database of its runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    told_of(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (one,) = client.search_runs([client.get_experiment_by_name("tunelift").experiment_id])
    steps = [(point.step, point.value) for point in client.get_metric_history(one.info.run_id, "train/loss")]
    assert sorted(steps) == STEPS
    assert {name: one.data.metrics[name] for name in EXPECTED} == EXPECTED
    assert one.data.tags["verdict"] == "better"
    assert one.data.params == {"train.epochs": "1", "model.name": "tiny"}
    assert one.info.status == "FINISHED"


def test_wandb_stays_offline_and_has_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    told_of(tmp_path / "run", "wandb")
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert runs
    until = time.monotonic() + 60
    ended, ids, history, summary = wandb_records(runs)
    while ended < len(runs):  # a process of its own writes behind ours
        assert time.monotonic() < until, "its files were not written to the end"
        time.sleep(0.1)
        ended, ids, history, summary = wandb_records(runs)
    assert len(ids) == 1, "one run of theirs, which went on"
    assert [(one["_step"], one["train/loss"]) for one in history if "train/loss" in one] == STEPS
    assert {name: summary.get(name) for name in EXPECTED} == EXPECTED, summary
    assert summary["verdict"] == "better"


def wandb_records(runs: list[Path]) -> tuple[int, set[str], list[dict[str, Any]], dict[str, Any]]:
    """Return how many files have an end, the ids of runs, history and summary."""
    from wandb.proto import wandb_internal_pb2

    def pairs(items: Any) -> dict[str, Any]:
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    ended, ids, history, summary = 0, set[str](), list[dict[str, Any]](), dict[str, Any]()
    for folder in runs:
        for data in log_records(next(folder.glob("*.wandb")).read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                history.append(pairs(record.history.item))
            elif kind == "exit":
                ended += 1
            elif kind == "run":
                ids.add(record.run.run_id)
            elif kind == "summary":
                summary |= pairs(record.summary.update)
    return ended, ids, history, summary


def log_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format, behind a header of 7 bytes: blocks of 32 KiB, 7 bytes before each."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def test_trackio_has_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    told_of(tmp_path / "run", "trackio")
    (name,) = sqlite_storage.SQLiteStorage.get_runs("tunelift")
    logs = sqlite_storage.SQLiteStorage.get_logs("tunelift", name)
    assert [(one["step"], one["train/loss"]) for one in logs if "train/loss" in one] == STEPS
    last = {key: value for one in logs for key, value in one.items()}
    assert {key: last[key] for key in EXPECTED} == EXPECTED
    assert last["verdict"] == "better"


class Fake:
    """Keeps what it is told; fails at a step where that is asked for."""

    kept: ClassVar[list[Any]] = []
    fails_at = 0

    def __init__(self, run: tracking.Run) -> None:
        self.id = "one"
        self.kept.append(("begun", run.known))

    def figures(self, values: Any, step: int | None) -> None:
        if step == self.fails_at:
            raise OSError("the server is gone")
        self.kept.append((step, dict(values)))

    def texts(self, values: Any) -> None:
        self.kept.append(dict(values))

    def close(self) -> None:
        self.kept.append("closed")


def test_a_whole_run_tells_its_losses_and_its_verdict(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "trackio", ("json", Fake))
    monkeypatch.setattr(Fake, "kept", [])
    comparison = run(from_keywords("train", **tiny, track=["trackio"]))
    kept = Fake.kept
    told = [one for one in kept if isinstance(one, tuple) and isinstance(one[1], dict)]
    assert [step for step, values in told if "train/loss" in values] == [1, 2, 3]
    assert any("validation/loss" in values for _, values in told)
    difference = comparison.to_dict()["metrics"]["accuracy"]["difference"]
    assert [values["accuracy/difference"] for _, values in told if "accuracy/difference" in values] == [difference]
    assert kept[-2]["verdict"] == comparison.verdict
    assert [one for one in kept if isinstance(one, tuple) and one[0] == "begun"] == [("begun", None), ("begun", "one")]


def test_one_that_fails_is_said_so_of_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRACKERS, "trackio", ("json", Fake))
    monkeypatch.setattr(Fake, "kept", [])
    monkeypatch.setattr(Fake, "fails_at", 2)
    monkeypatch.setattr(progress, "quiet", False)
    with tracked(tmp_path, ["trackio"], {}) as trackers:
        for step, loss in STEPS:
            trackers("train", step=step, loss=loss)
    assert [one[0] for one in Fake.kept if isinstance(one, tuple)] == ["begun", 1]
    assert "the server is gone" in capsys.readouterr().err


def test_one_that_is_not_installed_is_said_before_anything_is_computed(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", ("no_such_package", Fake))
    with pytest.raises(InputError, match=r"pip install 'tunelift\[wandb\]'"):
        run(from_keywords("train", **tiny, track="wandb"))
    with pytest.raises(InputError, match=r"'wandbb' is not allowed .* tensorboard, mlflow, wandb or trackio"):
        from_keywords("train", **tiny, track="wandbb")
    assert not Path(tiny["output"]).exists()
