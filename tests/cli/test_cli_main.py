from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import tunelift
from tunelift.adapters.methods import METHODS
from tunelift.cli import failures
from tunelift.cli.main import COMMANDS, cli
from tunelift.config.schema import Config
from tunelift.config.settings import SECTIONS
from tunelift.core import progress
from tunelift.core.errors import InputError, TuneliftError


def raises(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a is wrong.", fix="Set b."), 2, "Error: a is wrong.\nSet b.\n"),
        (InputError("a.", "b.", fix="Set c."), 2, "Error: 2 problems\n- a.\n- b.\nSet c.\n"),
        (TuneliftError("it broke."), 1, "Error: it broke.\n"),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (click.Abort(), 130, "Interrupted.\n"),
    ],
)
def test_how_a_command_ends(capsys, error: BaseException, code: int, said: str) -> None:
    assert failures.exit_code_of(raises(error), debug=False) == code
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(capsys) -> None:
    assert failures.exit_code_of(raises(InputError("a.")), debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_says_so_behind_its_traceback(capsys) -> None:
    assert failures.exit_code_of(raises(ZeroDivisionError("x")), debug=False) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("this is a bug in tunelift (ZeroDivisionError). Please report it with the traceback above.\n")


def test_the_code_that_a_command_asks_for() -> None:
    assert failures.exit_code_of(lambda: 3, debug=False) == 3
    assert failures.exit_code_of(lambda: None, debug=False) == 0


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "tunelift", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"tunelift {tunelift.__version__}\n"


def in_shell(*command: str) -> list[str]:
    """Return the lines that a shell prints, where the tunelift of this environment is the first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}, timeout=120
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.skipif(not Path(sys.executable).with_name("tunelift").exists(), reason="the command is not installed")
@pytest.mark.parametrize(
    ("words", "wanted"), [("lead", ["leaderboard"]), ("run --learn", ["--learning-rate"]), ("compare --mar", 2)]
)
def test_bash_completes_commands_and_options(words: str, wanted: list[str] | int) -> None:
    """As a key would: the script that the docs name is evaluated, and its function fills COMPREPLY."""
    script = f"""
        eval "$(_TUNELIFT_COMPLETE=bash_source tunelift)"
        complete -p tunelift
        COMP_WORDS=(tunelift {words}) COMP_CWORD={len(words.split())}
        _tunelift_completion tunelift
        printf "%s\\n" "${{COMPREPLY[@]}}"
    """
    bound, *found = in_shell("bash", "--norc", "-c", script)
    assert bound.endswith("_tunelift_completion tunelift")
    assert found == wanted if isinstance(wanted, list) else set(found) == {"--margin", "--markdown"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
@pytest.mark.skipif(not Path(sys.executable).with_name("tunelift").exists(), reason="the command is not installed")
def test_zsh_completes_commands() -> None:
    """What zsh would offer is caught where its `_describe` takes it, which needs a line editor."""
    script = """
        autoload -Uz compinit && compinit -u -D
        eval "$(_TUNELIFT_COMPLETE=zsh_source tunelift)"
        whence -w _tunelift_completion
        _describe() { print -l -- ${(P)3} }
        compadd() { print -l -- "$@" }
        words=(tunelift lead) CURRENT=2
        _tunelift_completion
    """
    bound, *found = in_shell("zsh", "-f", "-c", script)
    assert bound == "_tunelift_completion: function"
    assert any("leaderboard" in line for line in found), found


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).stdout
    assert all(f"  {name} " in shown for name in COMMANDS)
    files = {path.stem.rstrip("_") for path in Path(failures.__file__).parent.glob("*.py")}
    assert {name.replace("-", "_") for name in COMMANDS} <= files


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_purpose_examples_and_help_for_each_option(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"  tunelift {name}" in result.stdout
    assert "Undefined" not in result.stdout
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = click.Context(command)
    context.meta["tunelift.keys"] = True
    options = [param for param in command.get_params(context) if isinstance(param, click.Option)]
    assert [option.opts for option in options if not option.help] == []
    names = [opt for option in options for opt in option.opts]
    assert len(names) == len(set(names))


def test_help_names_every_method() -> None:
    """In lines that are broken at blanks and hyphens."""
    shown = "".join(CliRunner().invoke(cli, ["run", "--help"]).stdout.split())
    assert f"Oneof:{','.join(METHODS)}." in shown


def test_help_names_every_metric_and_baseline() -> None:
    from tunelift.evaluation.baselines import BASELINES
    from tunelift.metrics import METRICS

    shown = "".join(CliRunner().invoke(cli, ["run", "--help"]).stdout.split())
    for names in (METRICS, sorted(BASELINES)):
        assert ",".join(names) + ";" in shown


def test_every_key_has_an_option_of_run() -> None:
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    context = click.Context(command)
    context.meta["tunelift.keys"] = True
    reached = {name for option in command.get_params(context) for name in getattr(option, "names_set", ())}
    keys = {f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields}
    keys |= {key for key in Config.model_fields if key not in SECTIONS}
    apart = {"evaluate.batch_size", "sweep"}  # one --batch-size is enough; a mapping is written in a file
    assert {key for key in keys - reached if not key.startswith("leaderboard.")} == apart


@pytest.mark.parametrize(("word", "hint"), [("rn", 'Did you mean "run"?'), ("zzzz", "Commands: run, sweep, evaluate")])
def test_an_unknown_command(word: str, hint: str) -> None:
    result = CliRunner().invoke(cli, [word])
    assert result.exit_code == 2
    assert f'There is no command "{word}".' in result.stderr
    assert hint in result.stderr


@pytest.mark.parametrize("arguments", [["-q", "compare", "a", "b"], ["compare", "a", "b", "--quiet"]])
def test_quiet_before_or_behind_the_command(monkeypatch, arguments: list[str]) -> None:
    monkeypatch.setattr(progress, "quiet", False)
    CliRunner().invoke(cli, arguments)
    assert progress.quiet is True
    CliRunner().invoke(cli, ["compare", "a", "b"])
    assert progress.quiet is False


def test_doctor(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0, result.output
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert facts["python"].strip() == sys.version.split()[0]
    assert {"torch", "device", "dtype", "kernels", "cache", "model gemma3-270m"} <= facts.keys()
    assert facts["Hugging Face Hub"].strip() == "offline (HF_HUB_OFFLINE is set)"


def write_scores(folder: Path, right: list[int]) -> Path:
    rows: list[dict[str, Any]] = [
        {"id": str(i), "input": f"question {i}", "reference": "a", "prediction": "b", "metrics": {"accuracy": value}}
        for i, value in enumerate(right)
    ]
    folder.mkdir(parents=True)
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "scores.jsonl"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    write_scores(tmp_path / "base", [0] * 60 + [1] * 40)
    write_scores(tmp_path / "tuned", [1] * 60 + [1] * 35 + [0] * 5)
    return tmp_path


def test_compare_two_files(run_folder: Path) -> None:
    paths = [str(run_folder / side / "scores.jsonl") for side in ("base", "tuned")]
    result = CliRunner().invoke(cli, ["compare", *paths])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("The tuned model is better")
    assert "\x1b[" not in result.stdout


def test_compare_a_run_folder_as_json_and_to_a_file(run_folder: Path) -> None:
    target = run_folder / "out.json"
    arguments = ["compare", str(run_folder), "--json", "--margin", "0.05", "--output", str(target)]
    result = CliRunner().invoke(cli, arguments)
    shown = json.loads(result.stdout)
    assert shown["metrics"]["accuracy"]["verdict"] == "better"
    assert shown["metrics"]["accuracy"]["no_worse"] is True
    assert json.loads(target.read_text()) == shown


def test_compare_needs_two_sides(run_folder: Path) -> None:
    result = CliRunner().invoke(cli, ["compare", str(run_folder / "base")])
    assert result.exit_code == 2
    assert "Give two scores files" in result.stderr


def test_compare_of_files_imports_neither_torch_nor_pydantic(run_folder: Path) -> None:
    code = (
        "import sys\nfrom tunelift.cli.main import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*{'torch', 'transformers', 'pydantic', 'scipy.stats'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "compare", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


ENDS = """
import atexit, gc, sys
atexit.register(lambda: print("set aside:", gc.get_freeze_count() > 1000))
from tunelift.cli.main import main
sys.argv = ["tunelift", "--version"]
main()
"""


def test_a_process_that_ends_does_not_look_through_what_it_has() -> None:
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set aside: True"
