"""What Windows and macOS do otherwise, as far as Linux can show it: no names of POSIX, processes that begin anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

import tiny_models
from tunelift.config.keywords import from_keywords
from tunelift.config.load import default_output
from tunelift.run_files.layout import RunPaths, SweepPaths
from tunelift.scale.sweep import candidates

HERE = Path(__file__).parent


def ran(script: str, folder: Path) -> str:
    """Run a script beside this one in a process of its own; return what it printed."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parents[1] / "src")])
    done = subprocess.run(
        [sys.executable, str(HERE / script), str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_a_whole_run_needs_nothing_that_windows_lacks(tmp_path: Path) -> None:
    assert ran("without_posix.py", tmp_path).endswith("done\n")


def test_processes_may_begin_anew(tmp_path: Path) -> None:
    tiny_models.causal("llama").save_pretrained(tmp_path)
    tiny_models.tokenizer().save_pretrained(tmp_path)
    assert ran("spawned.py", tmp_path) == "inconclusive\n"


FORBIDDEN = set('<>:"|?*\\')


def allowed_on_windows(path: Path) -> bool:
    """Tell whether Windows takes each part of a relative path as a name."""
    windows = PureWindowsPath(*path.parts)
    named = not windows.drive and not any(set(part) & FORBIDDEN or part[-1] in ". " for part in windows.parts)
    return named and not any(PureWindowsPath(part).is_reserved() for part in windows.parts)


@pytest.mark.parametrize("name", ["CON", "a:b", "a.", "x|y", "nul.txt", "a<b"])
def test_a_name_that_windows_refuses_is_seen(name: str) -> None:
    assert not allowed_on_windows(Path("runs", name))


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", r"C:\models\tiny llama", "/models/a:b", "D:/m/q4?.gguf", "nul"])
@pytest.mark.parametrize("data", [r"C:\rows\my data.csv", "rows.v1.jsonl", "owner/name:split", "con.csv"])
def test_folders_that_are_named_here_have_names_for_windows(model: str, data: str) -> None:
    rates = {"train.learning_rate": [1e-4, 0.5], "adapter.target_modules": [["q_proj", "v|proj:*"]]}
    config = from_keywords("train", model=model, data=data, sweep=rates)
    folder = default_output(config)
    assert allowed_on_windows(folder)
    assert folder.parts[0] == "runs" and len(folder.parts) == 2
    sweep = SweepPaths(folder)
    for candidate in candidates(config):
        for path in (candidate.paths.folder, candidate.asked, candidate.log, sweep.summary):
            assert allowed_on_windows(path)


def test_a_runs_own_files_have_names_for_windows() -> None:
    paths = RunPaths("runs/a")
    own = [value for value in vars(paths).values() if isinstance(value, Path)]
    assert len(own) > 10
    assert all(map(allowed_on_windows, [*own, paths.forgetting("general-text").folder, paths.seed(-1).folder]))
