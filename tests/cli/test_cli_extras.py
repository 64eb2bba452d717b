"""An extra that is missing is named, with its install line, where it is needed and before anything is computed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from missing_extras import CASES, NO_COMMAND, RUN, UNPROVED, Case, extras, prepare
from tunelift.cli.main import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("extras")
    prepare(place)
    with pytest.MonkeyPatch.context() as there:
        there.chdir(place)
        done = CliRunner().invoke(cli, RUN)
    assert done.exit_code == 0, done.output
    return place


def computed(folder: Path) -> set[Path]:
    """Return the files that hold what was computed."""
    return {path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".safetensors", ".html")}


def test_every_extra_is_asked_for_by_a_command_or_by_none_with_a_reason() -> None:
    assert {case.extra for case in CASES} | NO_COMMAND.keys() == extras().keys()
    assert not {case.extra for case in CASES} & NO_COMMAND.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.extra} {' '.join(case.words[:4])}")
def test_a_missing_extra_is_named_with_its_install_line(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for module in list(sys.modules):
        if module.partition(".")[0] in case.packages:
            monkeypatch.delitem(sys.modules, module)
    for package in case.packages:
        monkeypatch.setitem(sys.modules, package, None)  # what importing takes for a module that is not there
    before = computed(folder)
    done = CliRunner().invoke(cli, case.words)
    said = f"{done.output}\n{done.stderr}"
    assert f"pip install 'tunelift[{case.extra}]'" in said
    if case.extra in UNPROVED:  # without it an export is written all the same, and called unproved
        assert done.exit_code == 0 and "not proved" in said, said
    else:
        assert done.exit_code == 2, said
        assert computed(folder) == before
