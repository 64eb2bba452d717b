"""Each command with doubles at the seams where models would be loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunelift.cli.main import cli
from tunelift.core.records import Scores

SCORES = Scores([], {"metrics": {"accuracy": {"value": 0.5, "higher_is_better": True, "items": 4}}})


class Verdict:
    """Stands for a Comparison."""

    def __str__(self) -> str:
        return "better"

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": "better"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """Put doubles in place of the pipeline, and return the list of what they were called with."""
    made: list[tuple[Any, ...]] = []

    def answers(name: str, value: Any) -> Any:
        def call(*arguments: Any, **_named: Any) -> Any:
            made.append((name, *arguments))
            return value

        return call

    stages = ModuleType("tunelift.pipeline.stages")
    stages.tune_stage = answers("tune", Path("runs/x/adapter"))
    stages.evaluate_stage = answers("evaluate", SCORES)
    stages.compare_adapter = answers("compare", Verdict())
    stages.from_run_folder = lambda folder: (None, Path(folder) / "adapter")
    generating = ModuleType("tunelift.pipeline.generating")
    generating.generate_stage = answers("generate", [{"prompt": "p", "base": "b", "tuned": "t"}])
    run = ModuleType("tunelift.pipeline.run")
    run.run = answers("run", Verdict())
    demo = ModuleType("tunelift.pipeline.demo")
    demo.demo_config = lambda output: f"demo in {output}"
    for module in (stages, generating, run, demo):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    return made


def invoke(*arguments: str, code: int = 0, **settings: Any) -> Result:
    result = CliRunner().invoke(cli, list(arguments), **settings)
    assert result.exit_code == code, result.output
    return result


def test_run_without_a_file(calls) -> None:
    result = invoke("run", "--model", "gpt2", "--data", "rows.csv", "--seed", "3", "--batch-size", "4", "adapter.r=16")
    ((_, config, *_),) = calls
    assert (config.model.name, config.data.train, config.adapter.model_extra) == ("gpt2", "rows.csv", {"r": 16})
    assert (config.data.seed, config.train.seed) == (3, 3)
    assert (config.train.batch_size, config.evaluate.batch_size) == (4, 16)
    assert result.stdout == f"better\nReport: {Path('runs/gpt2-rows/report.html')}\n"


def test_run_with_a_file_overrides_and_flags(calls) -> None:
    Path("config.yaml").write_text("model: gpt2\ndata: rows.csv\ntrain: {epochs: 2, patience: 3}\noutput: runs/a\n")
    result = invoke("run", "config.yaml", "train.epochs=3", "--learning-rate", "1e-4", "--no-deduplicate")
    ((_, config, *_),) = calls
    assert (config.train.epochs, config.train.patience, config.train.learning_rate) == (3, 3, 1e-4)
    assert config.data.deduplicate is False
    assert "runs/a" in result.stdout


def test_text_flags_keep_blanks_and_know_line_breaks(calls) -> None:
    invoke(
        "tune", "--model", "m", "--data", "d", "--prompt", "Message: {text}\\nIntent:", "--completion", " {category}"
    )
    ((_, config),) = calls
    assert (config.data.prompt, config.data.completion) == ("Message: {text}\nIntent:", " {category}")


def test_tune_prints_the_adapter(calls) -> None:
    assert invoke("tune", "--model", "gpt2", "--data", "rows.csv").stdout == f"Adapter: {Path('runs/x/adapter')}\n"


def test_tune_prints_the_model_where_all_of_it_is_trained(calls) -> None:
    assert invoke("tune", "--model", "gpt2", "--data", "rows.csv", "--method", "full").stdout.startswith("Model: ")


def test_evaluate_reads_data_as_test(calls) -> None:
    result = invoke(
        "evaluate", "--model", "gpt2", "--data", "test.csv", "--batch-size", "4", "--metrics", "accuracy,loss"
    )
    ((_, config, adapter),) = calls
    assert (config.data.test, config.data.train, adapter) == ("test.csv", None, None)
    assert (config.train.batch_size, config.evaluate.batch_size) == (8, 4)
    assert config.evaluate.metrics == ["accuracy", "loss"]
    assert result.stdout == "metric    value  items  better\naccuracy    0.5      4  higher\n"


def test_an_adapter_names_the_model(calls) -> None:
    invoke("evaluate", "--adapter", "a", "--data", "test.csv")
    invoke("generate", "--adapter", "a", "--prompt", "p")
    assert [(call[0], call[1].model.name, call[2]) for call in calls] == [("evaluate", "", "a"), ("generate", "", "a")]


def test_compare_with_an_adapter(calls) -> None:
    result = invoke("compare", "--adapter", "a", "--data", "test.csv", "--output", "runs/c", "--json")
    ((_, config, adapter, _),) = calls
    assert (config.data.test, config.output, adapter) == ("test.csv", "runs/c", "a")
    assert result.stdout == '{\n  "verdict": "better"\n}\n'


def test_compare_with_an_adapter_refuses_what_it_would_not_use(calls) -> None:
    result = invoke("compare", "--adapter", "a", "--data", "test.csv", "--level", "0.9", code=2)
    assert "tunelift compare RUN_FOLDER --level" in result.stderr
    assert calls == []


def test_generate_shows_both_sides(calls) -> None:
    Path("prompts.txt").write_text("one\n\ntwo\\nlines\n")
    result = invoke("generate", "--model", "gpt2", "--adapter", "a", "--prompt", "zero", "--file", "prompts.txt")
    assert calls[0][3] == ["zero", "one", "two\nlines"]
    assert result.stdout == "prompt: p\nbase: b\ntuned: t\n\n"


def test_generate_reads_standard_input(calls) -> None:
    invoke("generate", "--model", "gpt2", "--file", "-", input="from a pipe\n")
    assert calls[0][3] == ["from a pipe"]


def test_generate_from_a_run_folder(calls) -> None:
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/config.yaml").write_text("model: gpt2\nevaluate: {max_new_tokens: 7}\n")
    invoke("generate", "runs/a", "model.dtype=float32", "--prompt", "p")
    _, config, adapter, _ = calls[0]
    assert (config.model.name, config.model.dtype, config.evaluate.max_new_tokens) == ("gpt2", "float32", 7)
    assert Path(adapter) == Path("runs/a/adapter")


def test_generate_needs_a_prompt(calls) -> None:
    assert "--prompt TEXT or --file FILE" in invoke("generate", "--model", "gpt2", code=2).stderr


def test_demo_says_what_it_will_do(calls) -> None:
    result = invoke("demo", "--output", "runs/d")
    assert calls == [("run", "demo in runs/d")]
    assert result.stdout.startswith("The demo measures Gemma 3 270M")
    assert result.stdout.endswith(f"better\nReport: {Path('runs/d/report.html')}\n")


@pytest.mark.parametrize("command", ["run", "tune", "data", "evaluate"])
def test_what_is_missing_is_said(calls, command: str) -> None:
    assert "Give --model NAME, or model: in the config." in invoke(command, code=2).stderr
    assert calls == []


def test_every_problem_is_reported_at_once(calls) -> None:
    result = invoke("run", "--epochs", "many", "adapter.rr=1", "train.seed=x", code=2)
    lines = result.stderr.splitlines()
    assert lines[0] == "Error: 5 problems"
    assert lines[-1] == "Correct the config or the command."
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "- train.epochs", "- train.seed", "- model.name", "- data.train", "- adapter.rr",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rows.csv"], '"rows.csv" is neither a config file (.yaml) nor key=value. A data file is given by --data.'),
        (["nothing"], '"nothing" is neither a config file (.yaml) nor key=value.\n'),
        (["a.yaml", "b.yaml"], "Give one config file, not 2: a.yaml, b.yaml."),
        (["none.yaml"], "none.yaml cannot be read: No such file or directory.\nGive a YAML file in UTF-8.\n"),
        (["--learnig-rate", "1"], "--learning-rate"),
    ],
)
def test_wrong_arguments(calls, arguments: list[str], said: str) -> None:
    Path("rows.csv").touch()
    assert said in invoke("run", *arguments, code=2).stderr
    assert calls == []
