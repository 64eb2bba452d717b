"""GGUF files whose blocks are used as they lie: the numbers of the dequantised model, in the memory of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from test_models_convert import CONFIGS, needs_its_tokenizer, qwen2, random_model, write_gguf

from small_rows import write_rows
from tunelift.adapters.build import count_parameters
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import ModelSection
from tunelift.core.errors import InputError
from tunelift.fast import kernels
from tunelift.fast.block_kinds import KINDS
from tunelift.fast.blocks import BlockEmbedding, in_blocks, widened
from tunelift.fast.target_model import target_model
from tunelift.fast.unpad import sped_up
from tunelift.model_facts.parameters import compute_dtype
from tunelift.models import load
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS

CAUSAL = TASKS.get("causal-lm")
IDS = torch.arange(24).reshape(2, 12) + 5
MIXED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
HALVES = {"q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q4_k": [0, 2], "q5_k": [0, 2]}
"""Where in a block numbers in half precision lie; q6_k has its one at the end."""


def mixed(path: Path, arch: str) -> Path:
    """Write a tiny model whose weights are of all kinds that the package gguf writes."""

    def kind(name: str) -> GGMLQuantizationType:
        return GGMLQuantizationType[MIXED[sum(map(ord, name)) % len(MIXED)]]

    def pack(tensors: dict[str, Any]) -> None:
        for name, values in tensors.items():
            if values.ndim == 2:
                tensors[name] = quantize(values.astype("float32"), kind(name))

    return write_gguf(path, arch, random_model(CONFIGS[arch]()), pack, kind)


def narrow(path: Path, dtype: Any = "float32") -> Any:
    return load(ModelSection(name=str(path), dtype=dtype, quantization="gguf"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("q")])
def test_blocks_are_widened_as_the_package_gguf_does(kind: str) -> None:
    layout = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    packed = torch.randint(256, (5, 3, layout.bytes), dtype=torch.uint8, generator=generator)
    for place in HALVES.get(kind, [208]):
        packed[..., place : place + 2] = torch.randn(5, 3, 1, generator=generator).half().view(torch.uint8)
    for number, half in enumerate((0.0, -0.0, 6e-8, 65504.0)):  # the odd ones: nothing, the least and the largest
        packed[number, 0, HALVES.get(kind, [208])[0] :][:2] = torch.tensor([half]).half().view(torch.uint8)
    packed, size = packed.flatten(1), 3 * layout.block
    for dtype, far in ((torch.float32, 1e-6), (torch.bfloat16, 5e-3)):
        found = widened(packed, kind, size, dtype).float()
        with kernels.without():
            expected = widened(packed, kind, size, torch.float32)
        assert torch.allclose(found, expected, rtol=far, atol=far)
    # A row may end within a block, where a layout of ours allows it; what is behind is not written.
    assert torch.equal(
        widened(packed, kind, size - 3, torch.float32), widened(packed, kind, size, torch.float32)[:, :-3]
    )


@pytest.mark.parametrize("arch", [arch for arch in CONFIGS if arch != "gpt2"])
def test_logits_are_those_of_the_dequantised_model(arch: str, tmp_path: Path) -> None:
    needs_its_tokenizer(arch)
    path = mixed(tmp_path / f"{arch}.gguf", arch)
    wide, loaded = load(path, dtype="float32"), narrow(path)
    expected = wide.model(IDS).logits
    assert torch.allclose(loaded.model(IDS).logits, expected, atol=1e-4)
    assert isinstance(loaded.model.get_input_embeddings(), BlockEmbedding)
    head = loaded.model.get_output_embeddings()
    tied = wide.model.get_output_embeddings().weight is wide.model.get_input_embeddings().weight
    assert (head.weight is loaded.model.get_input_embeddings().weight) == tied
    assert len(in_blocks(loaded.model)) == 2 * 7 + 1
    assert sum(p.nbytes for p in loaded.model.parameters()) <= 1.3 * path.stat().st_size
    assert "as they lie" in loaded.identity.note and loaded.identity.quantization == "gguf"
    with sped_up(loaded.model) as paths:
        assert paths["frozen_products"].startswith("on")
        assert torch.allclose(loaded.model(IDS).logits, expected, atol=1e-4)
    labels = IDS.clone()
    losses = []
    for model in (wide.model, loaded.model):
        view, _ = target_model(model)
        assert view.fast_paths["target_only_head"] == "on"
        losses.append(float(view.loss_sum({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, labels)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    half = narrow(path, "bfloat16").model(IDS).logits.float()
    assert float((half - expected).norm() / expected.norm()) < 0.05


def test_what_cannot_be_used_as_it_lies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GPT-2 has its weights the other way round"):
        narrow(mixed(tmp_path / "gpt2.gguf", "gpt2"))
    folder = tmp_path / "model"
    random_model(qwen2()).save_pretrained(folder)
    with pytest.raises(InputError, match=r"the model is no .gguf file(.|\n)*Take int4"):
        narrow(folder)


def test_methods_that_change_the_embeddings_are_refused(tmp_path: Path) -> None:
    loaded = narrow(mixed(tmp_path / "qwen2.gguf", "qwen2"))
    session = Session.of(loaded.model, loaded.tokenizer, CAUSAL)
    refused: list[dict[str, Any]] = [
        {"method": "trainable-tokens", "token_indices": [1]},
        {"target_modules": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ]
    for keys in refused:
        with pytest.raises(InputError):
            session.check(keys)
    session.check({"target_modules": "all-linear"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_neither_dtype_nor_paths(dtype: Any, tmp_path: Path) -> None:
    path = mixed(tmp_path / "qwen2.gguf", "qwen2")
    loaded = narrow(path, dtype)
    session = Session.of(loaded.model, loaded.tokenizer, CAUSAL)
    with sped_up(session.model) as before:
        pass
    session.attach({"target_modules": "all-linear"}, 0)
    with sped_up(session.model) as after:
        pass
    assert before["fused_passes"] == after["fused_passes"] and "2 gates" in before["fused_passes"]
    assert compute_dtype(session.model) == compute_dtype(loaded.model) == getattr(torch, dtype)
    count = count_parameters(session.model)
    wide = sum(p.numel() for p in load(path).model.parameters())
    assert count.total == wide + count.trainable


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_run_is_proved(dtype: str, tmp_path: Path) -> None:
    path = mixed(tmp_path / "qwen2.gguf", "qwen2")
    for name, start in (("train", 0), ("test", 100)):
        write_rows(tmp_path / f"{name}.csv", 40, start=start)
    keys: dict[str, Any] = {
        "model": {"name": str(path), "dtype": dtype, "quantization": "gguf"},
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 5, "learning_rate": 1e-2, "max_length": 60},
        "evaluate": {"baselines": ["majority"], "forgetting": []},
    }
    assert run(from_keywords("train", **keys, output=str(tmp_path / "out"))).to_dict()["items"] == 40
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["proofs"] and all(proof["passed"] for proof in manifest["proofs"])
