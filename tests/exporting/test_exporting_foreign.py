"""Adapters of other programs made ones of stock peft: by exact factors, and as those programs themselves run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file

import exported
import tiny_models
from exported import KINDS
from tunelift.adapters.loading import check_fits
from tunelift.adapters.store import save_adapter
from tunelift.cli.main import cli
from tunelift.core.errors import InputError
from tunelift.exporting import foreign, gguf_file, gguf_lora, importing, llama_cpp, mlx_runtime, to_mlx
from tunelift.exporting.equality import equal
from tunelift.model_facts.anatomy import base_of
from tunelift.pipeline.verifying import verify


def written(kind: str, of: str, folder: Path) -> tuple[Any, Any, Path]:
    """Return the scores of an adapter, its bare base, and the adapter as another program has it."""
    adapted = exported.lora(exported.model(kind), kind)
    right = exported.scores(adapted, exported.items())
    if of == foreign.MLX:
        folder.mkdir()
        to_mlx.write(folder, adapted)
    else:
        folder = folder.with_suffix(".gguf")
        gguf_lora.write_lora(folder, adapted, "tiny", "f32")
    return right, adapted.unload(), folder


@pytest.mark.parametrize("of", [foreign.MLX, foreign.GGUF])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_exported_comes_back_as_it_was(kind: str, of: str, tmp_path: Path) -> None:
    right, base, path = written(kind, of, tmp_path / "adapter")
    adapted = importing.put_on(base, foreign.read_foreign(path, base))
    assert equal(right, exported.scores(adapted, exported.items()), 5e-6).holds
    save_adapter(adapted, None, tmp_path / "saved", {"base": {"path": "tiny"}})
    again = PeftModel.from_pretrained(adapted.unload(), str(tmp_path / "saved")).eval()
    assert equal(right, exported.scores(again, exported.items()), 5e-6).holds


def test_dora_comes_back_from_mlx_lm(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, lora_alpha=6, use_dora=True)
    adapted = get_peft_model(exported.model("llama"), config).eval()
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name or "lora_B" in name:
            parameter.data.add_(0.1)
    right = exported.scores(adapted, exported.items())
    to_mlx.write(tmp_path, adapted)
    base = adapted.unload()
    again = importing.put_on(base, foreign.read_foreign(tmp_path, base))
    assert again.peft_config["default"].use_dora
    assert equal(right, exported.scores(again, exported.items()), 5e-6).holds


@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 1.5), (0.0, 1.0)])
def test_the_scale_of_a_gguf_is_its_alpha_by_the_rank_and_none_where_that_is_0(
    alpha: float, scale: float, tmp_path: Path
) -> None:
    model = exported.model("qwen2")
    file = gguf_of(tmp_path / "a.gguf", {"adapter.lora.alpha": alpha})
    adapted = importing.put_on(model, foreign.read_foreign(file, model))
    assert base_of(adapted).model.layers[0].self_attn.o_proj.scaling["default"] == scale


def gguf_of(file: Path, said: dict[str, Any], **more: Any) -> Path:
    """Write a LoRA of rank 4 on one layer of a tiny Qwen2."""
    draw = np.random.default_rng(0)
    tensors = {f"blk.0.attn_output.weight.lora_{side}": draw.normal(size=shape).astype(np.float32) for side, shape in
               {"a": (4, 256), "b": (256, 4)}.items()}  # fmt: skip
    head = {"general.architecture": "qwen2", "general.type": "adapter", "adapter.type": "lora"}
    head |= {"adapter.lora.alpha": 8.0}
    gguf_file.write(file, head | said, lambda: iter((tensors | more).items()), "f32")
    return file


MATRIX = np.ones((4, 256), np.float32)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a model": ({"general.type": "model"}, {}, "no LoRA of llama.cpp on a qwen2"),
    "of another architecture": ({"general.architecture": "llama"}, {}, "'llama'"),
    "aLoRA": ({"adapter.alora.invocation_tokens": [1, 2]}, {}, "aLoRA"),
    "a norm": ({}, {"blk.0.attn_norm.weight": np.ones(32, np.float32)}, "matrix of floats"),
    "a bias as a matrix": ({}, {"blk.0.ffn_up.weight": MATRIX}, "no factor of a LoRA"),
    "half a layer": ({}, {"blk.1.attn_output.weight.lora_a": MATRIX}, "both factors"),
    "a deeper base": (
        {},
        {"blk.90.attn_output.weight.lora_a": MATRIX, "blk.90.attn_output.weight.lora_b": MATRIX.T},
        "no layer of this base",
    ),
    "a wider base": (
        {},
        {"blk.1.attn_q.weight.lora_a": np.ones((4, 64), np.float32), "blk.1.attn_q.weight.lora_b": MATRIX.T},
        "x 64",
    ),
    "head of tied weights": (
        {},
        {"output.weight.lora_a": MATRIX, "output.weight.lora_b": np.ones((400, 4), np.float32)},
        "shares its weight",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_gguf_that_is_no_plain_lora_on_this_base_is_refused(fault: str, tmp_path: Path) -> None:
    said, more, words = REFUSED[fault]
    model = exported.model("qwen2", tie_word_embeddings=True)
    file = gguf_of(tmp_path / "a.gguf", said, **more)
    with pytest.raises(InputError, match=words):
        importing.put_on(model, foreign.read_foreign(file, model))


MLX_REFUSED: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "all weights": ({"fine_tune_type": "full"}, lambda held: held, "no LoRA"),
    "no scale": ({"lora_parameters": {"rank": 4, "alpha": 16}}, lambda held: held, "scale is None"),
    "dora in name": ({"fine_tune_type": "dora"}, lambda held: held, "magnitudes of 0"),
    "a norm": ({}, lambda held: held | {"model.norm.weight": np.ones(32, np.float32)}, "no factor of a LoRA"),
    "experts": (
        {},
        lambda held: {f"model.layers.0.mlp.switch_mlp.up_proj.lora_{side}": np.ones((2, 4, 32)) for side in "ab"},
        "not both factors as matrices",
    ),
    "a deeper base": ({}, lambda held: {n.replace("layers.1", "layers.9"): t for n, t in held.items()}, "layers.9"),
}


@pytest.mark.parametrize("fault", MLX_REFUSED)
def test_a_folder_of_mlx_lm_that_is_no_lora_on_this_base_is_refused(fault: str, tmp_path: Path) -> None:
    said, change, words = MLX_REFUSED[fault]
    adapted = tiny_models.adapted(exported.model("qwen2"))
    to_mlx.write(tmp_path, adapted)
    base = adapted.unload()
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | said), encoding="utf-8")
    save_file(change(load_file(tmp_path / "adapters.safetensors")), tmp_path / "adapters.safetensors")
    with pytest.raises(InputError, match=words):
        importing.put_on(base, foreign.read_foreign(tmp_path, base))


def of_torchtune(folder: Path, adapted: Any) -> Path:
    """Write what torchtune 0.6.1 does: rows of queries and keys turned, whatever the architecture, and few settings."""
    adapted.save_pretrained(folder)
    tensors, config = load_file(folder / "adapter_model.safetensors"), adapted.config
    heads = {"q_proj.lora_B": config.num_attention_heads, "k_proj.lora_B": config.num_key_value_heads}
    for name, rows in tensors.items():
        for part, count in heads.items():
            if part in name:
                turned = rows.reshape(count, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
                tensors[name] = np.ascontiguousarray(turned)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj", "o_proj"], "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "adapter_model.pt").write_bytes(b"")
    return folder


def test_what_torchtune_turned_on_a_qwen2_is_refused_and_turned_back(tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj", "k_proj", "o_proj"], "r": 4, "lora_alpha": 6, "init_lora_weights": False}
    adapted = get_peft_model(exported.model("qwen2"), LoraConfig(**settings)).eval()
    right = exported.scores(adapted, exported.items())
    folder = of_torchtune(tmp_path / "made", adapted)
    base = adapted.unload()
    with pytest.raises(InputError, match="tunelift import"):
        check_fits(base, folder, None)
    as_written = PeftModel.from_pretrained(exported.model("qwen2"), str(folder)).eval()
    assert not equal(right, exported.scores(as_written, exported.items()), 1e-2).holds
    again = importing.put_on(base, foreign.read_foreign(folder, base))
    assert equal(right, exported.scores(again, exported.items()), 5e-6).holds
    llama = exported.model("llama")
    other = of_torchtune(tmp_path / "llama", get_peft_model(llama, LoraConfig(**settings)))
    assert not check_fits(exported.model("llama"), other, None)
    with pytest.raises(InputError, match="already"):
        foreign.read_foreign(other, exported.model("llama"))


def test_a_folder_of_peft_needs_no_import_and_another_is_none(tmp_path: Path) -> None:
    tiny_models.adapted(exported.model("llama")).save_pretrained(tmp_path / "peft")
    with pytest.raises(InputError, match="already"):
        foreign.kind_of(tmp_path / "peft")
    with pytest.raises(InputError, match=r"adapters\.safetensors"):
        foreign.kind_of(tmp_path)


MADE_THERE = """
import sys
from pathlib import Path
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from mlx_lm.tuner.utils import linear_to_lora_layers
import json
base, out, kind = sys.argv[1:]
mx.random.seed(0)
model, _ = load_model(Path(base))
model.freeze()
how = {"rank": 6, "scale": 7.5, "dropout": 0.0}
linear_to_lora_layers(model, 1, how, use_dora=kind == "dora")
held = {name: mx.random.normal(one.shape) * 0.03 + (one if name.endswith(".m") else 0)
        for name, one in tree_flatten(model.trainable_parameters())}
mx.save_safetensors(out + "/adapters.safetensors", held)
json.dump({"fine_tune_type": kind, "num_layers": 1, "lora_parameters": how}, open(out + "/adapter_config.json", "w"))
"""


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_mlx_lm_makes_itself_acts_in_peft_as_there(kind: str, tmp_path: Path) -> None:
    """Factors of 0.1 act by 6 nats at this width: 32 bits then round either program 5e-5 away from 64 bits."""
    for package in mlx_runtime.PACKAGES:
        pytest.importorskip(package, reason="adapters are made by mlx-lm where the extra mlx is installed")
    base, made = tmp_path / "base", tmp_path / "made"
    made.mkdir()
    model = exported.model("qwen2")
    model.save_pretrained(base)
    exported.tokenizer().save_pretrained(base)
    to_mlx.write_base(tmp_path / "for-mlx", model, dict(model.named_parameters()))
    subprocess.run([sys.executable, "-c", MADE_THERE, str(tmp_path / "for-mlx"), str(made), kind], check=True)
    words = ["import", str(made), "--model", str(base), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0 and "proved in mlx-lm" in done.output, done.output
    said = json.loads((tmp_path / "out" / "import.json").read_text())
    assert said["status"] == "proved" and all(one["passed"] for one in said["proofs"]) and len(said["proofs"]) == 3
    assert PeftModel.from_pretrained(model, str(tmp_path / "out")).peft_config["default"].r == 6


def test_an_import_from_llama_cpp_is_proved_there_and_one_that_lost_its_scale_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="adapters are run in llama.cpp where the extra llama-cpp is installed")
    model = exported.model("llama")
    model.save_pretrained(tmp_path / "base")
    exported.tokenizer().save_pretrained(tmp_path / "base")
    _, _, file = written("llama", foreign.GGUF, tmp_path / "adapter")
    words = ["import", str(file), "--model", str(tmp_path / "base"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0 and "proved in llama.cpp" in done.output, done.output
    assert not verify(tmp_path / "out")[1] and "llama.cpp" in verify(tmp_path / "out")[0][-1]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".gguf" or path.name == ".scratch"]
    for name, why in (("adapter_config.json", "is not the file"), ("proof/exported/scores.jsonl", "is not the file")):
        file = tmp_path / "out" / name
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        assert any(why in one and name in one for one in verify(tmp_path / "out")[1])
        file.write_bytes(before)
    read = foreign._of_gguf

    def without_scale(path: Path, base: Any) -> foreign.Foreign:
        found = read(path, base)
        return foreign.Foreign(found.of, found.factors, dict.fromkeys(found.factors, 2.0))

    monkeypatch.setattr(foreign, "_of_gguf", without_scale)
    done = CliRunner().invoke(cli, [*words[:-1], str(tmp_path / "other")], catch_exceptions=False)
    assert done.exit_code == 1 and "proof failed: same scores" in done.output + done.stderr
    assert not (tmp_path / "other").exists()


def test_without_its_program_an_import_says_that_it_is_not_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "is_there", lambda: False)
    model = exported.model("qwen2")
    model.save_pretrained(tmp_path / "base")
    exported.tokenizer().save_pretrained(tmp_path / "base")
    file = gguf_of(tmp_path / "a.gguf", {})
    words = ["import", str(file), "--model", str(tmp_path / "base"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "not proved" in done.output and "tunelift[llama-cpp]" in done.output
    assert not verify(tmp_path / "out")[1] and "not proved then" in verify(tmp_path / "out")[0][-1]
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
        done = CliRunner().invoke(cli, [*words[:-1], str(tmp_path / "full")])
        assert done.exit_code == 2 and "Make room" in done.output + done.stderr and not (tmp_path / "full").exists()
    assert torch.equal(
        PeftModel.from_pretrained(model, str(tmp_path / "out")).get_base_model().model.layers[0].self_attn.o_proj
        .lora_A["default"].weight,
        torch.from_numpy(foreign.read_foreign(file, exported.model("qwen2")).factors[
            "model.layers.0.self_attn.o_proj"
        ][0]),
    )  # fmt: skip
