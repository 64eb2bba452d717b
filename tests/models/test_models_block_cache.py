"""Blocks are kept in the cache: a model is quantised once, and a damaged folder is noticed and made again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import tiny_models
from tunelift.cli.main import cli
from tunelift.config.schema import ModelSection
from tunelift.core import cache
from tunelift.fast.blocks import in_blocks
from tunelift.models import block_cache, block_loading, load

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


@pytest.fixture(autouse=True)
def all_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "WORTH_KEEPING", 1)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_models.causal("llama", hidden_size=96, intermediate_size=160).save_pretrained(tmp_path / "base")
    tiny_models.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tell of every weight that is quantised."""
    kinds, plain = list[str](), block_loading.narrowed

    def narrowed(weight: Any, kind: str) -> Any:
        kinds.append(kind)
        return plain(weight, kind)

    monkeypatch.setattr(block_loading, "narrowed", narrowed)
    return kinds


def opened(base: Path, kind: Any = "int4", dtype: Any = "float32") -> Any:
    return load(ModelSection(name=str(base), dtype=dtype, quantization=kind)).model


def kept() -> list[Path]:
    return sorted(path for path in (cache.folder() / "models").glob("[!.]*") if "base-" in path.name)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_it_is_quantised_once_and_is_the_same(base: Path, made: list[str], kind: Any) -> None:
    first = opened(base, kind)
    assert made == [kind] * 21
    second = opened(base, kind)
    assert len(made) == 21
    assert [*in_blocks(second)] == [*in_blocks(first)] and len(in_blocks(second)) == 21
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first(IDS).logits, second(IDS).logits)
    assert len(kept()) == 1
    opened(base, kind, "bfloat16")  # whose weights were rounded before
    opened(base, "int8" if kind == "int4" else "int4")
    assert len(made) == 63 and len(kept()) == 3


@pytest.mark.parametrize("harm", ["a bit", "cut off", "no facts", "another model's"])
def test_what_is_damaged_is_noticed_and_made_again(
    base: Path, made: list[str], harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = opened(base)(IDS).logits
    weights, facts = kept()[0] / block_cache.WEIGHTS, kept()[0] / block_cache.FACTS
    data = bytearray(weights.read_bytes())
    if harm == "a bit":
        data[-100] ^= 1
    weights.write_bytes(data[:-1] if harm == "cut off" else data)
    if harm == "no facts":
        facts.unlink()
    if harm == "another model's":
        facts.write_text(json.dumps({"sha256": "0" * 64}))
    assert torch.equal(opened(base)(IDS).logits, expected)
    assert "is damaged" in capsys.readouterr().err and len(made) == 42
    assert torch.equal(opened(base)(IDS).logits, expected)
    assert len(made) == 42


def test_other_weights_are_other_blocks(base: Path, made: list[str]) -> None:
    opened(base)
    tiny_models.causal("llama", seed=1, hidden_size=96, intermediate_size=160).save_pretrained(base)
    opened(base)
    assert len(made) == 42 and len(kept()) == 2


def test_a_cache_that_cannot_be_written_changes_nothing(
    base: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(block_cache.files, "write_folder", full)
    opened(base)
    opened(base)
    assert len(made) == 42 and not kept()


def test_small_models_are_not_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "WORTH_KEEPING", 10**6)
    opened(base)
    assert not kept()


def test_the_cache_lists_and_removes_it(base: Path) -> None:
    opened(base)
    listed = json.loads(CliRunner().invoke(cli, ["cache", "--json"]).stdout)["kept"]
    name = next(one["name"] for one in listed if one["name"].startswith("base-"))
    assert "int4-float32" in name
    assert CliRunner().invoke(cli, ["cache", "--clear", name]).exit_code == 0
    assert not kept()


OWN_MEMORY = """
import re, sys, threading, time
from pathlib import Path
import torch, transformers
from tunelift.config.schema import ModelSection
from tunelift.models import load

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def look():
    while True:
        seen.append(own())
        time.sleep(0.005)

def opened(name, **how):
    return load(ModelSection(name=name, dtype="float32", **how)).model

opened(sys.argv[1])  # another model: what is imported and allocated once is not counted
seen = [own()]
threading.Thread(target=look, daemon=True).start()
opened(sys.argv[2], quantization=sys.argv[3])
print(max(seen) - seen[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="own memory is looked up in /proc")
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_wide_model_is_never_in_memory(base: Path, tmp_path: Path, kind: str) -> None:
    """Neither as it is quantised nor as it comes from the cache, where it is mapped."""
    large = tiny_models.causal("llama", hidden_size=1024, intermediate_size=3072, num_hidden_layers=8)
    large.bfloat16().save_pretrained(tmp_path / "large")
    tiny_models.tokenizer().save_pretrained(tmp_path / "large")
    wide = 4 * sum(parameter.numel() for parameter in large.parameters())
    took = [
        int(subprocess.check_output([sys.executable, "-c", OWN_MEMORY, base, tmp_path / "large", kind], text=True))
        for _ in range(2)
    ]
    blocks = wide * {"int8": 8.5, "int4": 4.5}[kind] / 32
    assert took[0] < blocks + 0.35 * wide
    assert took[1] < 0.2 * wide
