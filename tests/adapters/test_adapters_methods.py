"""Every method of peft and every setting of LoRA: a saved adapter is scored as stock peft scores it, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import config as lora
from torch import Tensor

import tiny_models
from tunelift.adapters.beginnings import is_subtracted
from tunelift.adapters.build import attach, switched_off
from tunelift.adapters.loading import check_fits, load_adapter
from tunelift.adapters.read import MISREAD, READ
from tunelift.core.errors import InputError
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import IGNORED
from tunelift.fast.unpad import sped_up

ROWS = ([5, 6, 7, 8, 9, 10, 11], [5, 7, 8, 6, 9])

VIRTUAL = {"num_virtual_tokens": 4}
NEEDS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10, "r": 4},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None},
    "C3A": {"block_size": 16},
    "CARTRIDGE": VIRTUAL,
    "CPT": {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 4},
    "PREFIX_TUNING": VIRTUAL,
    "PROMPT_TUNING": VIRTUAL,
    "PSOFT": {"r": 4},
    "P_TUNING": {**VIRTUAL, "encoder_hidden_size": 16},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6], "target_modules": None},
    "VBLORA": {"num_vectors": 16, "vector_length": 16, "r": 4},
    "WAVEFT": {"n_frequency": 10},
}
"""What a config must be given for a model as small as these."""


def saved(folder: Path, config: Any, kind: str = "llama", **changes: Any) -> Path:
    """Return the folder of an adapter that does something, saved by stock peft."""
    torch.manual_seed(1)
    model = get_peft_model(tiny_models.causal(kind, **changes), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def by_stock(model: Any) -> Tensor:
    """Return the log-likelihoods of each row's tokens, of the model's own logits, row by row."""
    found = []
    for row in ROWS:
        ids = torch.tensor([row])
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -len(row) : -1]
        found.append(logits.double().log_softmax(-1).gather(2, ids[:, 1:, None]).flatten())
    return torch.cat(found).float()


@torch.no_grad()
def by_ours(model: Any) -> Tensor:
    width = max(map(len, ROWS))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in ROWS])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ROWS])
    view, _ = target_model(model)
    with sped_up(model):
        inputs = {"input_ids": ids, "attention_mask": mask}
        return view.log_likelihoods(inputs, ids.masked_fill(mask == 0, IGNORED))


def assert_as_stock(folder: Path, kind: str = "llama", **changes: Any) -> list[str]:
    """Assert that an adapter acts as under stock peft, and that switched off it leaves the base; return the notes."""
    base = tiny_models.causal(kind, **changes)
    before = by_stock(base)
    stock = by_stock(PeftModel.from_pretrained(tiny_models.causal(kind, **changes), folder))
    notes = check_fits(base, folder, None)
    model = load_adapter(base, folder, None)
    assert torch.allclose(by_ours(model), stock, atol=1e-5)
    assert not torch.allclose(stock, before, atol=1e-4)
    with switched_off(model):
        assert torch.allclose(by_ours(model), before, atol=1e-5)
    return notes


KNOWN = {method.value for method in PeftType}
"""Of the peft that is installed."""


@pytest.mark.parametrize("method", sorted(READ & KNOWN))
def test_a_method_is_scored_as_stock_peft_scores_it(method: str, tmp_path: Path) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
    settings = {"task_type": "CAUSAL_LM"} | NEEDS.get(method, {})
    if "target_modules" in config.__dataclass_fields__:
        settings.setdefault("target_modules", ["q_proj", "v_proj"])
    saved(tmp_path, config(**settings))
    if "VERA" in method and not hasattr(lora, "KasaConfig"):
        with pytest.raises(InputError, match=r"holds base_model\.p?vera_A.* for which this model has no place"):
            check_fits(tiny_models.causal("llama"), tmp_path, None)  # as peft 0.20 has it
        return
    assert assert_as_stock(tmp_path) == []


@pytest.mark.parametrize("method", sorted(KNOWN - READ - MISREAD.keys()))
def test_a_method_that_was_not_tried_is_refused(method: str, tmp_path: Path) -> None:
    saved(tmp_path, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    file = tmp_path / "adapter_config.json"
    file.write_text(file.read_text().replace('"LORA"', f'"{method}"'))
    with pytest.raises(InputError, match=f"is of peft's {method}, which was not tried here"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)


def test_block_diagonal_layers_in_memory_are_left_to_peft() -> None:
    blocks = lora.BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"])
    config = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False, use_bdlora=blocks)
    model = get_peft_model(tiny_models.causal("llama"), config)
    assert torch.allclose(by_ours(model), by_stock(model), atol=1e-5)


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LORA: dict[str, dict[str, Any]] = {
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "EVA": {"init_lora_weights": "eva"},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "aLoRA": {"alora_invocation_tokens": [7, 8]},
    "VeLoRA": {"velora_config": lora.VeloraConfig()},
    "QALoRA": {"use_qalora": True},
    "biases of B": {"lora_bias": True},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "a pattern": {"target_modules": r".*layers\.[01]\.(self_attn|mlp)\.(q|up)_proj"},
    "layers": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.1\..*v_proj": 6}, "alpha_pattern": {"v_proj": 3}},
    "tokens": {"trainable_token_indices": [5, 6]},
    "head and embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("case", LORA)
def test_a_setting_of_lora_is_scored_as_stock_peft_scores_it(case: str, tmp_path: Path) -> None:
    settings = {"target_modules": ["q_proj", "v_proj"], "r": 4, "task_type": "CAUSAL_LM"} | LORA[case]
    notes = assert_as_stock(saved(tmp_path, LoraConfig(**settings)))
    assert bool(notes) == (case == "aLoRA")


REWRITING = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "fast PiSSA": {"init_lora_weights": "pissa_niter_4"},
    "OLoRA": {"init_lora_weights": "OLoRA"},
    "KaSA": {"kasa_config": getattr(lora, "KasaConfig", dict)()},  # since peft 0.21
}


@pytest.mark.parametrize("case", REWRITING)
def test_what_rewrites_the_base_is_refused(case: str, tmp_path: Path) -> None:
    if not REWRITING[case].keys() <= LoraConfig.__dataclass_fields__.keys():
        pytest.skip("a later peft has it")
    config = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM", **REWRITING[case])
    saved(tmp_path, config)
    with pytest.raises(InputError, match="rewrites the base's weights"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)
    base = tiny_models.causal("llama")
    own = base.model.layers[0].self_attn.q_proj.weight.clone()
    if not is_subtracted(config):
        with pytest.raises(InputError, match="rewrites the base's weights"):
            attach(base, config, seed=0)
    assert torch.equal(base.model.layers[0].self_attn.q_proj.weight, own)


def test_an_adapter_that_was_saved_as_plain_lora_is_one(tmp_path: Path) -> None:
    """peft subtracts where PiSSA began, and says so in the config; what data a method began with may stay in it."""
    config = LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM", init_lora_weights="pissa")
    model = get_peft_model(tiny_models.causal("llama"), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "begin")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.2)
    model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "begin"))
    trained = by_stock(model)
    assert_as_stock(tmp_path / "adapter")
    found = by_ours(load_adapter(tiny_models.causal("llama"), tmp_path / "adapter", None))
    assert torch.allclose(found, trained, atol=1e-4)


UNTRIED = {
    "MiCA": ({"init_lora_weights": "mica"}, "init_lora_weights"),
    "BD-LoRA": ({"use_bdlora": lora.BdLoraConfig(nblocks=2, target_modules_bd_a=["q_proj"])}, "use_bdlora"),
    "MonteCLoRA": ({"monteclora_config": lora.MontecloraConfig()}, "monteclora_config"),
}


@pytest.mark.parametrize("case", UNTRIED)
def test_a_setting_that_was_not_tried_is_refused(case: str, tmp_path: Path) -> None:
    settings, named = UNTRIED[case]
    if case == "MiCA" and not hasattr(lora, "KasaConfig"):
        pytest.skip("a later peft has it")
    saved(tmp_path, LoraConfig(target_modules=["q_proj"], r=4, task_type="CAUSAL_LM", **settings))
    with pytest.raises(InputError, match=f"settings of LoRA that were not tried here: {named}"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)


SQUARE = {**EXPERTS, "hidden_size": 32, "intermediate_size": 16}
"""gate_up_proj is as wide as it is high: A and B fit the other way round."""
OF_EXPERTS = LoraConfig(
    target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"], r=4, task_type="CAUSAL_LM"
)


def test_weights_of_experts_are_adapted_as_by_stock_peft(tmp_path: Path) -> None:
    assert_as_stock(saved(tmp_path, OF_EXPERTS, "mixtral", **SQUARE), "mixtral", **SQUARE)


@pytest.mark.parametrize("version", [None, "0.18.0", "0.19.0@abc"])
def test_weights_of_experts_of_an_old_peft_are_refused(version: str | None, tmp_path: Path) -> None:
    """Their A and B are the other way round, which shapes do not show."""
    file = saved(tmp_path, OF_EXPERTS, "mixtral", **SQUARE) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "peft_version": version}))
    with pytest.raises(InputError, match=r"the other way round in peft before 0\.19\.1"):
        check_fits(tiny_models.causal("mixtral", **SQUARE), tmp_path, None)


OF_MIXTURES = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "shared_expert_intermediate_size": 16,
}
ROUTERS = {
    **{"mixtral": "gate", "qwen3_moe": "gate", "olmoe": "gate", "minimax": "gate"},
    **{"phimoe": "router", "llama4_text": "router", "qwen2_moe": "gate", "gpt_oss": "router", "granitemoe": "router"},
}
ADAPTED = {"mixtral", "qwen3_moe", "olmoe", "minimax"}
"""Routers whose weights peft adapts; the others return several tensors, or are no layers to it."""


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_by_its_name_is_right_or_refused(kind: str, tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj", ROUTERS[kind]], r=2, task_type="CAUSAL_LM")
    if kind in ADAPTED:
        assert_as_stock(saved(tmp_path, config, kind, **OF_MIXTURES), kind, **OF_MIXTURES)
        return
    with pytest.raises(InputError, match=r"more than a linear layer|peft refuses this model"):
        attach(tiny_models.causal(kind, **OF_MIXTURES), config, seed=0)


@pytest.mark.parametrize("kind", ["phimoe", "llama4_text"])
def test_a_folder_that_adapts_such_a_router_is_refused(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, LoraConfig(target_modules=["router"], r=2, task_type="CAUSAL_LM"), kind, **OF_MIXTURES)
    with pytest.raises(InputError, match=r"router is a \w+Router, which is more than a linear layer"):
        check_fits(tiny_models.causal(kind, **OF_MIXTURES), tmp_path, None)
