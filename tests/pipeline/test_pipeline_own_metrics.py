"""A metric that is a function in a file: run where the user named it, and never where somebody else did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tunelift
from tunelift.config.load import load_config
from tunelift.core.errors import InputError
from tunelift.metrics import Answer, resolve

CODE = """
from pathlib import Path
Path("ran").touch()
def score(prediction, reference, row):
    return len(prediction) / 10
score.higher_is_better = False
other = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my-metrics.py").write_text(CODE)
    monkeypatch.chdir(folder)
    return folder


def test_a_function_of_the_working_folder_is_a_metric(here: Path) -> None:
    (metric,) = resolve(["my-metrics.py:score"])
    assert metric.score is not None
    assert (metric.name, metric.higher_is_better) == ("score", False)
    assert metric.score(Answer("abc", "")) == pytest.approx(0.3)
    (here / "my-metrics.py").write_text(CODE + "\n")
    (changed,) = resolve(["my-metrics.py:score"])
    assert metric.defined_by != changed.defined_by


def test_other_places_and_what_is_no_function_are_refused(here: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(CODE)
    (here / "link.py").symlink_to(tmp_path / "evil.py")
    (here / "sub").mkdir()
    (here / "sub" / "evil.py").write_text(CODE)
    (here / "broken.py").write_text("import nothing_that_there_is")
    for name, said in (
        ("../evil.py:score", "named without a folder"),
        (f"{tmp_path}/evil.py:score", "named without a folder"),
        ("sub/evil.py:score", "named without a folder"),
        ("my-metrics.py:score()", "is no FILE.py:FUNCTION"),
        ("link.py:score", r"there is no file link\.py"),
        ("none.py:score", r"there is no file none\.py"),
        ("broken.py:score", r"broken\.py fails: ModuleNotFoundError"),
    ):
        with pytest.raises(InputError, match=said):
            resolve([name])
    assert not (here / "ran").exists()
    for name, said in (
        ("my-metrics.py:none", "has no function none"),
        ("my-metrics.py:other", "has no function other"),
    ):
        with pytest.raises(InputError, match=said):
            resolve([name])


@pytest.mark.parametrize(
    "text", ["evaluate: {metrics: [my-metrics.py:score]}", "evaluate:\n  metrics: my-metrics.py:score"]
)
def test_a_config_of_another_folder_or_of_a_run_names_no_code(here: Path, tmp_path: Path, text: str) -> None:
    config = f"model: gpt2\n{text}\n"
    (here / "config.yaml").write_text(config)
    assert load_config("config.yaml").evaluate.metrics == ["my-metrics.py:score"]
    (tmp_path / "config.yaml").write_text(config)
    (here / "runs").mkdir()
    (here / "runs" / "config.yaml").write_text(config)
    for path in (tmp_path / "config.yaml", "runs/config.yaml", "../config.yaml"):
        with pytest.raises(InputError, match="names code as a metric, and lies in another folder"):
            load_config(path)
    (here / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="names code as a metric, and is the config of a run"):
        load_config("config.yaml")
    assert load_config("config.yaml", of_run=True).evaluate.metrics == ["my-metrics.py:score"]
    flags: dict[str, Any] = {"evaluate.metrics": "my-metrics.py:score"}
    assert load_config(None, flags=flags).evaluate.metrics == ["my-metrics.py:score"]
    assert not (here / "ran").exists()


def test_a_run_measures_it_and_goes_on_with_the_same_code_alone(tiny: dict[str, Any]) -> None:
    folder = Path(tiny["output"]).parent
    (folder / "mine.py").write_text("def shorter(prediction, reference):\n    return float(len(prediction) < 5)\n")
    settings = tiny | {"evaluate": {"metrics": ["mine.py:shorter"], "max_new_tokens": 4, "forgetting": []}}
    settings |= {"data": tiny["data"] | {"prompt": "{text}", "completion": " {label}"}}
    assert tunelift.run(**settings).to_dict()["metrics"].keys() == {"shorter"}
    assert tunelift.run(**settings).to_dict()["metrics"].keys() == {"shorter"}
    (folder / "mine.py").write_text("def shorter(prediction, reference):\n    return 1.0\n")
    with pytest.raises(InputError, match=r"holds another run; what differs: metrics\.shorter"):
        tunelift.run(**settings)
