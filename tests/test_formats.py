"""Folders of every format that was ever written: compared, listed, reported and verified, or refused with what to do.

tests/formats holds them as earlier versions wrote them. Where this version's own folder fails here, the same scores
give another comparison.json than before: raise FORMAT if that format was released, and run tests/make_format.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunelift.adapters.store import read_lineage
from tunelift.cli.main import cli
from tunelift.core import files
from tunelift.core.errors import InputError
from tunelift.pipeline.verifying import verify
from tunelift.reporting import write_card, write_markdown, write_report
from tunelift.run_files.layout import FORMAT, RunPaths

KEPT = sorted((Path(__file__).parent / "formats").iterdir())


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(request.param, tmp_path / "runs" / "old"))


def said(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == code, f"{done.output}\n{done.stderr}"
    return f"{done.output}\n{done.stderr}"


def test_there_is_a_folder_of_every_format() -> None:
    assert {int(path.name.partition("-")[0]) for path in KEPT} == set(range(1, FORMAT + 1))
    for path in KEPT:
        assert files.read_object(RunPaths(path).manifest)["format"] == int(path.name.partition("-")[0])


def test_a_folder_of_any_format_is_compared_listed_and_reported(run: Path) -> None:
    shown = said("compare", str(run))
    assert "on accuracy: 0.500 -> " in shown
    assert "baseline (accuracy)" in shown and "tf-idf" in shown and "Over 2 seeds" in shown
    assert "bits_per_byte on other, for forgetting" in shown
    before = files.read_object(RunPaths(run).comparison)["metrics"]["accuracy"]
    again = json.loads(said("compare", str(run), "--json"))["metrics"]["accuracy"]
    assert [again[side] for side in ("base", "tuned")] == [before[side] for side in ("base", "tuned")]
    assert str(run) in said("runs", str(run.parent)).replace("\n", "")
    for write in (write_report, write_markdown, write_card):
        assert write(run).stat().st_size > 1000


def test_what_this_version_wrote_agrees_and_what_an_earlier_one_concluded_is_not_called_a_fault(run: Path) -> None:
    right, wrong = verify(run)
    assert any("proof of the tune" in line for line in right)
    if files.read_object(RunPaths(run).comparison)["format"] == FORMAT:
        assert not wrong, wrong
        assert any(line.startswith("comparison.json follows from the scores") for line in right)
    else:
        [line] = wrong
        assert f"this tunelift computes format {FORMAT} of the same scores: tunelift compare {run}" in line


def later(path: Path, number: object = FORMAT + 1) -> None:
    files.write_json(path, {**files.read_object(path), "format": number})


@pytest.mark.parametrize("name", ["manifest.json", "tuned/metrics.json"])
@pytest.mark.parametrize("command", [("compare",), ("verify",)])
def test_a_later_format_is_refused_with_what_to_do(name: str, command: tuple[str], tmp_path: Path) -> None:
    run = Path(shutil.copytree(KEPT[-1], tmp_path / "run"))
    later(run / name)
    shown = said(*command, str(run), code=3 if command == ("verify",) and "metrics" in name else 2)
    assert f"is of format {FORMAT + 1}, and tunelift" in shown
    if "manifest" in name:
        assert "Read it with the tunelift that wrote it, or a later one." in shown


@pytest.mark.parametrize("write", [write_report, write_markdown])
def test_a_later_format_is_not_reported(write: Callable[[Path], Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(KEPT[-1], tmp_path / "run"))
    later(RunPaths(run).manifest)
    with pytest.raises(InputError, match="reads formats up to"):
        write(run)


@pytest.mark.parametrize("number", ["two", True, 1.5, None])
def test_a_format_that_is_none_is_called_damaged(number: object, tmp_path: Path) -> None:
    run = Path(shutil.copytree(KEPT[-1], tmp_path / "run"))
    later(RunPaths(run).manifest, number)
    assert '"format" is not what' in said("compare", str(run), code=2)


def test_an_adapter_of_a_later_version_is_refused(tmp_path: Path) -> None:
    files.write_json(tmp_path / "tunelift.json", {"format": 2, "base": {"name": "m"}})
    with pytest.raises(InputError, match="of format 2, and tunelift"):
        read_lineage(tmp_path)
