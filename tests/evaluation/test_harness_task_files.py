"""Task files are checked before lm-evaluation-harness is given them, and their templates rendered in a sandbox there.

What is refused, and that nothing of it runs, stands in tests/faults/hostile_tasks.py; that needs no harness.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from tunelift.core.errors import InputError
from tunelift.untrusted.task_files import CHOICES, KEYS, read_tasks
from tunelift.untrusted.templates import bounded

BASE = """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{question | trim}}"
doc_to_target: "{{answer}}"
target_delimiter: yes
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file that others include, with the data beside it."""
    (tmp_path / "rows.jsonl").write_text('{"question": " a ", "answer": "b"}\n')
    (tmp_path / "base").write_text(BASE.replace("FILE", str(tmp_path / "rows.jsonl")))
    return tmp_path


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra harness)")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    from tunelift.evaluation import harness

    harness.find_tasks.cache_clear()
    return harness


def task(folder: Path, name: str, more: str = "") -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(f"task: {name}\ninclude: base\n{more}\n")
    return file


def test_a_folder_gives_its_tasks_with_what_they_include(base: Path) -> None:
    task(base, "one")
    task(base, "two", "target_delimiter: ' '")
    (base / "group.yaml").write_text("group: both\ntask: [one, two]\n")
    (base / ".ipynb_checkpoints").mkdir()
    task(base / ".ipynb_checkpoints", "three")
    one, two = read_tasks(base)
    assert (one["task"], one["target_delimiter"]) == ("one", True)  # YAML 1.1 has "yes" as true, and so has the harness
    assert (two["task"], two["target_delimiter"], two["test_split"]) == ("two", " ", "test")
    assert read_tasks(base / "two.yaml") == [two]


def test_names_in_a_task_s_data_are_relative_to_where_the_command_runs(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = task(base, "one", "dataset_kwargs: {data_files: rows.jsonl}")
    monkeypatch.chdir(base)
    assert read_tasks(Path("one.yaml"))[0]["dataset_kwargs"] == {"data_files": "rows.jsonl"}
    (base / "elsewhere").mkdir()
    monkeypatch.chdir(base / "elsewhere")
    (base / "elsewhere" / "more.jsonl").write_text("")
    with pytest.raises(InputError, match=r"one\.yaml: .*rows\.jsonl cannot be read"):
        read_tasks(file)


def test_what_is_read_is_what_the_harness_reads(base: Path, harness: Any) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    file = task(base, "one", "repeats: 0o1\ndescription: 2001-01-01\nmetadata: {version: 1.0, on: off}")
    assert read_tasks(file) == [load_yaml(file)]


def test_what_is_allowed_is_there(harness: Any) -> None:
    from lm_eval.api.registry import filter_registry, metric_registry
    from lm_eval.api.samplers import SAMPLER_REGISTRY
    from lm_eval.config.task import FewshotConfig, TaskConfig

    assert set(CHOICES["metric"]) <= set(metric_registry)
    assert set(CHOICES["function"]) <= set(filter_registry) - {"custom"}
    assert set(CHOICES["sampler"]) <= set(SAMPLER_REGISTRY)
    assert set(KEYS["task"]) <= {field.name for field in dataclasses.fields(TaskConfig)} | {"include"}
    assert set(KEYS["fewshot_config"]) <= {field.name for field in dataclasses.fields(FewshotConfig)}


def test_the_harness_never_sees_a_file_that_names_code(base: Path, harness: Any) -> None:
    canary = base / "CANARY"
    (base / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\ndef run(x): return x\n")
    file = task(base, "one", "process_docs: !function evil.run")
    for named in (file, base):
        with pytest.raises(InputError, match="names Python code, never run here"):
            harness.find_tasks((str(named),))
    file.rename(base / "arc_easy")  # a file is meant, whatever its suffix
    with pytest.raises(InputError, match="names Python code, never run here"):
        harness.find_tasks((str(base / "arc_easy"),))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ question['__cla' ~ 'ss__'].x }}", "'__class__' of 'str' object is unsafe"),
        ("{{ cycler['__in' ~ 'it__'].x }}", "'__init__' of .* is unsafe"),
        ("{{ [].append(1) }}", "is unsafe|is not safely callable"),
        ("{{ 'a' * 999999 * 999999 }}", "grew beyond what memory"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "did not end within"),
    ],
)
def test_templates_are_rendered_in_the_sandbox(
    template: str, said: str, base: Path, harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval

    plain = lm_eval.utils.env
    monkeypatch.setattr(harness, "bounded", functools.partial(bounded, seconds=0.5))
    with pytest.raises(InputError, match=said):
        harness.find_tasks((str(task(base, "one", f'doc_to_text: "{template}"')),))
    assert lm_eval.utils.env is plain
    assert lm_eval.utils.apply_template("{{ [1].append(2) }}", {}) == "None"


def test_a_local_task_goes_to_no_server(base: Path, harness: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[str] = []
    monkeypatch.setattr(datasets.load, "get_session", lambda: asked.append("counts the load on a server"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    (found,) = harness.find_tasks((str(task(base, "one", "target_delimiter: ' '")),))
    assert asked == []
    (loaded,) = found.load()["tasks"].values()
    assert (loaded.doc_to_text({"question": " a "}), loaded.doc_to_target({"answer": "b"})) == ("Question: a", "b")
    assert len(asked) == 1, "by itself the library would have"
