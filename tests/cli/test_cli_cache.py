"""`tunelift cache`: what is kept, in words and in JSON, and what goes when it is cleared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunelift.cli.main import cli
from tunelift.evaluation.cache import Context


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with scores of two models, one of them with an adapter too, a converted model and a hash."""
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path))
    for name, adapter, task, items in (
        ("gpt2", None, "causal-lm", 3), ("gpt2", None, "lm-eval", 4), ("gpt2", "runs/x/adapter", "causal-lm", 5),
        ("qwen", None, "causal-lm", 1),
    ):  # fmt: skip
        about = {"model": name, "adapter": adapter, "task": task}
        Context({**about, "a": 1}, about).kept({}).add({str(i): {"log_likelihood": -1.5} for i in range(items)})
    (tmp_path / "models" / "tiny-0123-v1").mkdir(parents=True)
    (tmp_path / "models" / "tiny-0123-v1" / "model.safetensors").write_bytes(b"0" * 2**20)
    (tmp_path / "models" / ".tiny-0123-v1.lock").touch()
    (tmp_path / "hashes").mkdir()
    (tmp_path / "hashes" / "ab.json").write_text("{}")
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["cache", *arguments])


def kept(result: Result) -> list[tuple[str, str, str | None, int | None]]:
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["kept"]
    return sorted((row["kind"], row["name"], row.get("adapter") or "", row.get("items")) for row in rows)


EVERYTHING = [
    ("converted model", "tiny-0123-v1", "", None), ("hashes", "hashes", "", None),
    ("scores", "gpt2", "", 7), ("scores", "gpt2", "runs/x/adapter", 5), ("scores", "qwen", "", 1),
]  # fmt: skip


def test_what_is_kept_as_a_table_and_as_json(folder: Path) -> None:
    lines = [line.split() for line in invoke().stdout.splitlines()]
    assert lines[0] == [str(folder)]
    assert lines[1] == ["name", "kind", "items", "size", "last", "used"]
    assert ["gpt2", "with", "runs/x/adapter", "scores", "5", "0.0", "MiB"] in [line[:7] for line in lines]
    assert ["tiny-0123-v1", "converted", "model", "1.0", "MiB"] in [line[:5] for line in lines]
    assert lines[-1] == ["total", "1.0", "MiB"]
    assert kept(invoke("--json")) == EVERYTHING
    assert {row["size_bytes"] > 0 for row in json.loads(invoke("--json").stdout)["kept"]} == {True}


@pytest.mark.parametrize(
    ("arguments", "goes"),
    [
        (["--clear"], {("scores", "gpt2"), ("scores", "qwen")}),
        (["--clear", "gpt2"], {("scores", "gpt2")}),
        (["--clear", "hashes"], {("hashes", "hashes")}),
        (["--clear", "tiny-0123-v1"], {("converted model", "tiny-0123-v1")}),
        (["--clear", "all"], {row[:2] for row in EVERYTHING}),
    ],
)
def test_clearing_removes_what_is_named_and_nothing_else(arguments: list[str], goes: set[tuple[str, str]]) -> None:
    removed = kept(invoke(*arguments, "--json"))
    assert removed == [row for row in EVERYTHING if row[:2] in goes]
    assert kept(invoke("--json")) == [row for row in EVERYTHING if row[:2] not in goes]


def test_a_name_that_nothing_has(folder: Path) -> None:
    result = invoke("--clear", "gpt")
    assert result.exit_code == 2
    assert 'The cache holds nothing called "gpt". Did you mean "gpt2"?' in result.stderr
    assert len(list((folder / "scores").iterdir())) == 4


def test_an_empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELIFT_CACHE", str(folder / "nothing"))
    assert invoke().stdout == f"{folder / 'nothing'} holds nothing.\n"
    assert invoke("--clear").exit_code == 0


def test_a_link_is_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "thesis.txt").write_text("mine")
    (folder / "models" / "linked").symlink_to(elsewhere)
    assert invoke("--clear", "all").exit_code == 0
    assert (elsewhere / "thesis.txt").read_text() == "mine"
