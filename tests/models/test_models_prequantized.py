"""Files that are quantised already: loaded as the same model in plain layers, or refused before a weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny_models
from method_battery import acting
from small_rows import write_rows
from tunelift.adapters.methods import METHODS
from tunelift.config.keywords import from_keywords
from tunelift.config.schema import DataSection, ModelSection, TrainSection
from tunelift.core.errors import InputError
from tunelift.data.splits import load_splits
from tunelift.fast.blocks import narrowed, widened
from tunelift.fast.frozen import is_plain
from tunelift.fast.unpad import sped_up
from tunelift.models import hub, load, loader, prequantized
from tunelift.pipeline.exporting import export_stage
from tunelift.pipeline.planning import plan
from tunelift.pipeline.run import run
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS
from tunelift.training.run import train

CAUSAL = TASKS.get("causal-lm")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
BNB = ("nf4", "nf4-double", "fp4", "int8")
E4M3 = torch.float8_e4m3fn


def written(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4} | changes
    tiny_models.causal(kind, **sizes).save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


def says(folder: Path, told: dict[str, Any] | None) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    return folder


def opened(folder: Path, dtype: Any = "float32") -> Session:
    return Session.open(ModelSection(name=str(folder), dtype=dtype), CAUSAL)


def by_bitsandbytes(folder: Path, kind: str) -> Path:
    """Save a tiny model as bitsandbytes has it, by stock transformers."""
    pytest.importorskip("bitsandbytes", reason="the extra quantized is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    told: dict[str, Any] = {"load_in_8bit": True} if kind == "int8" else {"load_in_4bit": True}
    if kind != "int8":
        told |= {"bnb_4bit_quant_type": kind[:3], "bnb_4bit_use_double_quant": kind.endswith("double")}
        told["bnb_4bit_compute_dtype"] = torch.float16  # as many files say; products are in the model's dtype here
    plain = written(folder / "plain")
    how: Any = BitsAndBytesConfig(**told)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=how, dtype=torch.float16, device_map="cpu")
    model.save_pretrained(folder / kind)
    tiny_models.tokenizer().save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.parametrize("kind", BNB)
def test_bitsandbytes_files_are_the_model_in_plain_layers(tmp_path: Path, kind: str) -> None:
    folder = by_bitsandbytes(tmp_path, kind)
    session = opened(folder)
    title = "bitsandbytes-8bit" if kind == "int8" else "bitsandbytes-4bit"
    assert session.identity.quantization == title
    model, wide = session.model, opened(folder).model.dequantize(torch.float32)
    with torch.no_grad():
        expected = wide(IDS).logits
        assert torch.allclose(model.train()(IDS).logits, expected, atol=1e-4)
        alone = model.eval()(IDS).logits
        many = model(torch.cat([IDS, IDS.flip(1)])).logits[:1]
    assert torch.allclose(alone, expected, atol=1e-4) and torch.allclose(many, alone, atol=1e-5)
    gradients = []
    for one in (model, wide):
        begin = one.get_input_embeddings()(IDS).detach().requires_grad_()
        one.train()(inputs_embeds=begin).logits.log_softmax(-1)[..., 7].sum().backward()
        gradients.append(begin.grad)
    assert torch.allclose(*gradients, atol=1e-3 * float(gradients[1].abs().max()))


@pytest.mark.parametrize("kind", ["nf4-double", "int8"])
def test_an_adapter_learns_on_them_as_in_plain_layers_and_comes_back(tmp_path: Path, kind: str) -> None:
    folder = by_bitsandbytes(tmp_path, kind)
    rows = load_splits(
        DataSection(train=str(write_rows(tmp_path / "train.csv", 20))), reading=CAUSAL.reading, roles=("train",)
    ).train
    losses: dict[bool, list[float]] = {False: [], True: []}
    for narrow, told in losses.items():
        session = opened(folder)
        if not narrow:
            session.model = session.model.dequantize(torch.float32)
        session.attach({"r": 4}, 0)
        train(
            session.model, session.tokenizer, CAUSAL, {"train": rows}, TrainSection(steps=4, learning_rate=1e-2),
            listeners=[lambda event, told=told, **facts: told.append(facts["loss"]) if event == "train" else None],
        )  # fmt: skip
    assert losses[True] == pytest.approx(losses[False], rel=1e-3) and losses[True][-1] < losses[True][0]
    made = session.save_adapter(tmp_path / "adapter")
    expected = session.model.eval()(IDS).logits
    again = opened(folder)
    again.load_adapter(made)
    assert torch.allclose(again.model(IDS).logits, expected, atol=1e-5)
    with pytest.raises(InputError, match="weights are quantised"):
        opened(folder).check({"method": "full"})
    with pytest.raises(InputError, match="the base is held in few bits"):
        opened(folder).check({"method": "loha"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_bits_have_the_fast_paths(tmp_path: Path, dtype: Any) -> None:
    folder = by_bitsandbytes(tmp_path, "int8")
    session = opened(folder, dtype)
    session.attach({"r": 4, "init_lora_weights": False}, 0)
    model = session.model
    rows = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    found = []
    for fast in (False, True):
        with sped_up(model.train()) if fast else nullcontext({}) as paths:
            assert not fast or paths["fused_lora"] == "on: 21 layers"
            assert not fast or paths["frozen_products"] == "on: 22 layers"
            model.zero_grad()
            logits = model(inputs_embeds=rows).logits
            logits.float().log_softmax(-1)[..., 7].sum().backward()
            found.append([logits, *(p.grad for p in model.parameters() if p.requires_grad)])
    far = 1e-5 if dtype == "float32" else 6e-2
    assert all(float((one - other).norm()) <= far * float(one.norm()) for one, other in zip(*found, strict=True))


def test_stock_layers_in_eight_bits_are_left_as_they_are(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(by_bitsandbytes(tmp_path, "int8"))
    layers = [module for module in stock.modules() if type(module).__name__ == "Linear8bitLt"]
    expected = stock.requires_grad_(False).eval()(IDS).logits
    assert layers and not any(map(is_plain, layers))
    with sped_up(stock):
        assert not any("frozen" in vars(layer) for layer in layers)
        assert torch.allclose(stock(IDS).logits, expected, atol=1e-5)


def test_methods_that_read_no_weights_act_on_eight_bits_as_on_plain_layers(tmp_path: Path) -> None:
    folder = by_bitsandbytes(tmp_path, "int8")
    for name in (name for name in METHODS if not METHODS.get(name).reads_weights):
        found = []
        for wide in (False, True):
            session = opened(folder)
            if wide:
                session.model = session.model.dequantize(torch.float32)
            found.append(acting(session, name)(IDS).logits)
        assert torch.allclose(*found, atol=1e-3), name


def test_a_whole_run_on_them_is_proved_and_not_exported(tmp_path: Path) -> None:
    folder = by_bitsandbytes(tmp_path, "int8")
    for name, start in (("train", 0), ("test", 100)):
        write_rows(tmp_path / f"{name}.csv", 40, start=start)
    keys: dict[str, Any] = {
        "model": {"name": str(folder), "dtype": "float32"},
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "train": {"steps": 5, "learning_rate": 1e-2},
        "evaluate": {"baselines": ["majority"], "forgetting": []},
    }
    config = from_keywords("train", **keys, output=str(tmp_path / "out"))
    held = sum(part.bytes for part in plan(config, quick=True).parts if part.name == "weights")
    assert held == (folder / "model.safetensors").stat().st_size
    assert run(config).to_dict()["items"] == 40
    proofs = json.loads((tmp_path / "out" / "manifest.json").read_text())["proofs"]
    assert proofs and all(proof["passed"] for proof in proofs)
    assert not (tmp_path / "out" / "full_precision").exists()
    with pytest.raises(InputError, match=r"base was held in bitsandbytes-8bit"):
        export_stage(tmp_path / "out", "merged", None)


Rounded = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def rounded(folder: Path, told: dict[str, Any], how: Rounded, ends: Any = "proj.weight") -> dict[str, Tensor]:
    """Write a folder's weights anew, those whose names end so as `how` rounds them; return what they are then."""
    stored, numbers = dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in load_file(folder / "model.safetensors").items():
        half = weight.bfloat16()  # which files hold beside what they have rounded
        own, numbers[name] = how(name, weight) if name.endswith(ends) else ({name: half}, half.float())
        stored |= own
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    says(folder, told)
    return numbers


def in_fp8(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Round a weight to FP8 in blocks of 128 x 128, as DeepSeek's files have it, each with a scale of its own."""
    stored, numbers = torch.zeros_like(weight, dtype=E4M3), torch.zeros_like(weight)
    scales = torch.zeros(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
            scales[i, j] = float(weight[block].abs().max()) / 448 * (1 + i + j)
            stored[block] = (weight[block] / scales[i, j]).to(E4M3)
            numbers[block] = stored[block].float() * scales[i, j]
    return {name: stored, f"{name}_scale_inv": scales}, numbers


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}


def same_numbers(model: Any, numbers: dict[str, Tensor]) -> bool:
    found = model.state_dict()
    assert {name for name, _ in model.named_parameters()} <= set(numbers) | {"lm_head.weight"}
    return all(torch.equal(found[name], expected) for name, expected in numbers.items())


def test_fp8_is_widened_and_trained_as_any_model(tmp_path: Path) -> None:
    numbers = rounded(written(tmp_path, hidden_size=256, intermediate_size=384), FP8, in_fp8)
    session = opened(tmp_path)
    assert same_numbers(session.model, numbers) and session.identity.quantization is None
    assert "widened from fp8" in session.identity.note
    assert getattr(session.model.config, "quantization_config", None) is None  # what is saved is no FP8 any more
    session.check({"method": "full"})
    session.attach({"r": 4}, 0)
    session.model(IDS).logits.sum().backward()
    assert any(p.grad is not None for p in session.model.parameters())


def test_fp8_that_ends_within_a_block_is_refused(tmp_path: Path) -> None:
    rounded(written(tmp_path, hidden_size=256, intermediate_size=192), FP8, in_fp8)
    with pytest.raises(InputError, match=r"down_proj.weight is 256 x 192 in FP8, which is no whole number of blocks"):
        opened(tmp_path)


def test_mxfp4_is_widened(tmp_path: Path) -> None:
    written(tmp_path, "gpt_oss", intermediate_size=64, num_local_experts=4, num_experts_per_tok=2)
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([values, -values])
    generator = torch.Generator().manual_seed(0)

    def in_fp4(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        experts, inputs, outputs = weight.shape  # the file has them the other way round, 32 numbers to a scale
        codes = torch.randint(0, 16, (experts, outputs, inputs // 32, 32), generator=generator)
        scales = torch.randint(120, 128, (experts, outputs, inputs // 32), generator=generator)
        packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        wide = values[codes] * torch.exp2(scales.float() - 127).unsqueeze(-1)
        stored = {f"{name}_blocks": packed, f"{name}_scales": scales.to(torch.uint8)}
        return stored, wide.flatten(2).transpose(1, 2).contiguous()

    told = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    numbers = rounded(tmp_path, told, in_fp4, ends=(".gate_up_proj", ".down_proj"))
    session = opened(tmp_path)
    assert same_numbers(session.model, numbers) and "widened from mxfp4" in session.identity.note


@pytest.mark.parametrize("kind", ["float-quantized", "int-quantized"])
def test_compressed_tensors_are_widened(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    most, dtype = (448, E4M3) if kind == "float-quantized" else (127, torch.int8)

    def by_channel(name: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / most
        stored = (weight / scale if dtype == E4M3 else (weight / scale).round()).to(dtype)
        return {name: stored, f"{name}_scale": scale}, stored.float() * scale

    weights = {
        "num_bits": 8,
        "type": kind.removesuffix("-quantized"),
        "strategy": "channel",
        "symmetric": True,
        "dynamic": False,
    }
    group = {"targets": ["Linear"], "weights": weights, "format": kind}
    told = {
        "quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip
    numbers = rounded(written(tmp_path), told, by_channel)
    assert same_numbers(opened(tmp_path).model, numbers)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "torchao", "quant_type": {}}, "torchao 0.18"),
        ({"quant_method": "quanto", "weights": "int8"}, "does not write such files"),
        ({"quant_method": "hqq", "quant_config": {}}, "refuses HQQ on a CPU"),
        ({"quant_method": "vptq"}, "nothing here holds"),
        ({"quant_method": "auto-round", "bits": 4}, "nothing here holds"),
        ({"bits": 4}, "a method that is not named"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"format": "nvfp4-pack-quantized", "weights": {"strategy": "tensor_group"}}},
            },
            "of it nvfp4-pack-quantized, tensor_group was not tried",
        ),
        ({"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage"),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_has_fp16_weight": True},
            "llm_int8_has_fp16_weight",
        ),
    ],
)
def test_all_others_are_refused_by_name_before_a_weight_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], said: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(loader, "_weights", never)
    says(written(tmp_path), told)
    with pytest.raises(InputError, match=rf"(?s)quantised by .*{said}.*model.quantization: int4") as error:
        opened(tmp_path)
    assert told.get("quant_method", "") in str(error.value) and "are not loaded" in str(error.value)


def test_of_the_hub_no_weight_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(written(tmp_path), {"quant_method": "gptq", "bits": 4})
    (tmp_path / "model.safetensors").unlink()
    fetched = list[str]()
    monkeypatch.setattr(hub, "locate", lambda name, revision: (tmp_path, True))
    monkeypatch.setattr(hub, "fetch", lambda name, commit, wanted: fetched.extend(wanted))
    with pytest.raises(InputError, match="quantised by gptq"):
        opened(Path("someone/model"))
    assert set(fetched) == set(hub.TEXTS)


def test_the_text_part_of_a_model_may_say_so(tmp_path: Path) -> None:
    class Outer:
        quantization_config = None

        def get_text_config(self, decoder: bool = False) -> Any:
            return type("Inner", (), {"quantization_config": {"quant_method": "gptq"}})()

    with pytest.raises(InputError, match="quantised by gptq"):
        prequantized.check("it", Outer(), torch.device("cpu"), CAUSAL)


def test_numbers_that_nobody_says_the_scales_of_are_refused(tmp_path: Path) -> None:
    rounded(written(tmp_path, hidden_size=256, intermediate_size=384), {}, in_fp8)
    with pytest.raises(InputError, match=r"hold numbers in F8_E4M3 \(.*config.json has no quantization_config"):
        opened(tmp_path)


def test_what_is_quantised_is_not_quantised_again(tmp_path: Path) -> None:
    rounded(written(tmp_path, hidden_size=256, intermediate_size=384), FP8, in_fp8)
    with pytest.raises(InputError, match="quantised already"):
        Session.open(ModelSection(name=str(tmp_path), dtype="float32", quantization="int8"), CAUSAL)


def test_our_own_eight_bits_lose_less_where_a_row_holds_a_large_number() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="the extra quantized is not installed")
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    weight[:, 7] = 20.0
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    theirs = codes.float() * scales.float().unsqueeze(1) / 127
    ours = widened(narrowed(weight, "int8"), "int8", 512, torch.float32)
    assert float((ours - weight).norm()) < 0.5 * float((theirs - weight).norm())


def test_a_new_head_is_not_drawn_in_few_bits(tmp_path: Path) -> None:
    says(written(tmp_path), {"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(InputError, match="causal language models alone, not for the task sequence-classification"):
        load(ModelSection(name=str(tmp_path)), task=TASKS.get("sequence-classification"), labels=["a", "b"])
