"""What peft 0.21.2 does wrongly without a word, and what tunelift does about it (the table in docs/methods.md).

Each test shows the fault first, so that it fails once a later peft has mended it: the line of the table, and what is
done here, can go then.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import KasaConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

import tiny_models
import tunelift
from tunelift.adapters.build import attach, peft_config
from tunelift.adapters.loading import check_fits
from tunelift.core.errors import InputError

CAUSAL = {"task_type": "CAUSAL_LM"}
ROWS = ([5, 6, 7, 8, 9, 10, 11], [5, 7, 8])


def adapted(config: Any, kind: str = "llama", **changes: Any) -> Any:
    """Return stock peft's model, its adapter one that does something."""
    torch.manual_seed(1)
    model = peft.get_peft_model(tiny_models.causal(kind, **changes), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def alone(model: Any, ids: list[int]) -> Tensor:
    row = torch.tensor([ids])
    found: Tensor = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -len(ids) :]
    return found


@torch.no_grad()
def padded_on_the_left(model: Any) -> Tensor:
    """Return the logits of the shorter row behind padding, beside the longer one."""
    short, gap = ROWS[1], len(ROWS[0]) - len(ROWS[1])
    ids, mask = torch.tensor([ROWS[0], [0] * gap + short]), torch.tensor([[1] * 7, [0] * gap + [1] * len(short)])
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    extra = {} if model.config.model_type == "mamba" else {"position_ids": positions}
    found: Tensor = model(input_ids=ids, attention_mask=mask, **extra).logits[1, -len(short) :]
    return found


def answered_alike(model: Any) -> bool:
    """Tell whether our answers are the same together and one by one."""
    tokenizer, prompts, how = tiny_models.tokenizer(), ["cat", "what is it, then?"], {"max_new_tokens": 6}
    one_by_one = [tunelift.generate(model, tokenizer, [prompt], **how)[0]["tuned"] for prompt in prompts]
    return [answer["tuned"] for answer in tunelift.generate(model, tokenizer, prompts, **how)] == one_by_one


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=4, **CAUSAL), "llama"),
        (peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16, **CAUSAL), "llama"),
        (peft.BeftConfig(target_modules=["in_proj"], **CAUSAL), "mamba"),
    ],
)
def test_rows_behind_padding_are_wrong_and_answered_one_by_one(config: Any, kind: str) -> None:
    changes = {"state_size": 8} if kind == "mamba" else {}
    model = adapted(config, kind, **changes)
    assert not torch.allclose(padded_on_the_left(model), alone(model, ROWS[1]), atol=1e-3)
    assert answered_alike(model)


def test_lily_reads_what_comes_later_and_is_refused(tmp_path: Path) -> None:
    model = adapted(peft.LilyConfig(target_modules=["q_proj", "v_proj"], r=4, **CAUSAL))
    first, other = alone(model, [5, 6, 7])[0], alone(model, [5, 60, 70])[0]
    assert not torch.allclose(first, other, atol=1e-4)
    with pytest.raises(InputError, match="Lily is refused"):
        peft_config({"method": "lily"}, "CAUSAL_LM")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of peft's LILY: each token is changed by the mean of all"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)


def test_x_lora_saves_nothing_and_is_refused(tmp_path: Path) -> None:
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2, **CAUSAL)
    peft.get_peft_model(tiny_models.causal("llama"), lora).save_pretrained(tmp_path / "expert")
    base = tiny_models.causal("llama")
    base.config.use_cache = False
    config = peft.XLoraConfig(hidden_size=32, xlora_depth=1, adapters={"0": str(tmp_path / "expert")}, **CAUSAL)
    model = peft.get_peft_model(base, config)
    assert any(parameter.requires_grad for parameter in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "adapter_model.safetensors") == {}
    with pytest.raises(InputError, match="X-LoRA is refused"):
        peft_config({"method": "xlora"}, "CAUSAL_LM")


def test_cpt_has_no_loss_by_default_and_is_refused() -> None:
    model = adapted(peft.CPTConfig(cpt_token_ids=[5, 6, 7], **CAUSAL))
    row = torch.tensor([ROWS[0]])
    assert math.isnan(float(model(input_ids=row, attention_mask=torch.ones_like(row), labels=row).loss))
    with pytest.raises(InputError, match="CPT is refused"):
        peft_config({"method": "cpt"}, "CAUSAL_LM")


def test_fourierft_begins_with_noise_and_here_as_the_base() -> None:
    base = alone(tiny_models.causal("llama"), ROWS[0])
    own = peft.FourierFTConfig(n_frequency=100, target_modules=["q_proj"], **CAUSAL)
    noise = peft.get_peft_model(tiny_models.causal("llama"), own).eval()
    assert not torch.allclose(alone(noise, ROWS[0]), base, atol=0.1)
    model = tiny_models.causal("llama")
    ours = attach(model, peft_config({"method": "fourierft"}, "CAUSAL_LM", model), seed=0).eval()
    assert torch.allclose(alone(ours, ROWS[0]), base, atol=1e-5)


def test_prompts_cannot_be_gone_on_from_and_that_is_said(tmp_path: Path) -> None:
    from tunelift.adapters.loading import check_goes_on

    adapted(peft.PromptTuningConfig(num_virtual_tokens=4, **CAUSAL)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Cannot set a prompt learning adapter to trainable"):
        peft.PeftModel.from_pretrained(tiny_models.causal("llama"), tmp_path, is_trainable=True)
    with pytest.raises(InputError, match="peft does not load to be trained on"):
        check_goes_on(tmp_path)


def test_all_linear_takes_routers_and_here_does_not() -> None:
    from tunelift.adapters.targets import linear_targets

    sizes: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    own = adapted(peft.LoraConfig(target_modules="all-linear", **CAUSAL), "qwen3_moe", **sizes)
    assert any(".gate." in name and "lora" in name for name, _ in own.named_parameters())
    taken, _ = linear_targets(tiny_models.causal("qwen3_moe", **sizes), "CAUSAL_LM") or ([], "")
    assert taken and not any(name.endswith(".gate") for name in taken)


@pytest.mark.parametrize(("how", "times"), [("linear", 2.0), ("cat", 16**0.5)])
def test_peft_sums_adapters_wrongly_and_our_sum_is_right(how: str, times: float, tmp_path: Path) -> None:
    """The mean of an adapter with itself, plain, and of rsLoRA, of rank 16; ours is in test_adapters_combining.py."""
    settings: dict[str, Any] = {"use_rslora": True, "r": 8, "lora_alpha": 8} if how == "cat" else {"r": 4}
    adapted(peft.LoraConfig(target_modules=["q_proj"], **settings, **CAUSAL)).save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(tiny_models.causal("llama"), tmp_path, adapter_name="one")
    model.load_adapter(tmp_path, adapter_name="two")
    model.add_weighted_adapter(["one", "two"], [0.5, 0.5], "both", combination_type=how)
    layer = next(module for module in model.modules() if hasattr(module, "get_delta_weight"))
    one, both = layer.get_delta_weight("one"), layer.get_delta_weight("both")
    assert float(both.norm() / one.norm()) == pytest.approx(times, rel=1e-4)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == settings["r"]


@pytest.mark.parametrize("tokens", ["trainable-tokens", "lora"])
def test_trained_tokens_drop_the_bias_of_a_head_and_are_refused(tokens: str) -> None:
    """On a tied head, too: a new adapter, which should change nothing, takes the bias from every logit."""
    model = tiny_models.causal("bert", is_decoder=True)
    torch.nn.init.normal_(model.cls.predictions.bias)
    bias, before = model.cls.predictions.bias.detach().clone(), alone(model, ROWS[0])
    keys: dict[str, Any] = {"token_indices": [7]}
    if tokens == "lora":
        keys = {"trainable_token_indices": [7], "target_modules": ["query"]}
    config = peft_config({"method": tokens, **keys}, "CAUSAL_LM", model)
    assert torch.allclose(alone(peft.get_peft_model(model, config).eval(), ROWS[0]) + bias, before, atol=1e-5)
    with pytest.raises(InputError, match=r"decoder has a bias, which peft 0\.21 leaves out"):
        attach(tiny_models.causal("bert", is_decoder=True), config, seed=0)


def test_osf_passes_over_conv1d_and_is_refused() -> None:
    config = peft.OSFConfig(target_modules=["c_attn"], **CAUSAL)
    own = peft.get_peft_model(tiny_models.causal("gpt2"), config)
    assert not any(parameter.requires_grad for parameter in own.parameters())
    with pytest.raises(InputError, match="peft finds nothing to train"):
        attach(tiny_models.causal("gpt2"), config, seed=0)


@pytest.mark.parametrize(
    "config",
    [
        peft.LNTuningConfig(target_modules=["norm"], **CAUSAL),
        peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1, **CAUSAL),
        peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"], **CAUSAL),
    ],
)
def test_some_are_trained_in_the_bases_half_precision(config: Any) -> None:
    """Their steps are taken in fp32 here, as tests/training has it; what is saved is what was measured."""
    model = peft.get_peft_model(tiny_models.causal("llama").to(torch.bfloat16), config)
    assert torch.bfloat16 in {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}


def test_a_second_adalora_cannot_be_trained_beside_the_first() -> None:
    config = peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, **CAUSAL)
    model = peft.get_peft_model(tiny_models.causal("llama"), config)
    with pytest.raises(ValueError, match="supports only 1 trainable adapter"):
        model.add_adapter("other", peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, **CAUSAL))


def test_eva_takes_trained_tokens_for_a_layer_of_its_own() -> None:
    """It is given ids for vectors then, and refused here (test_new_tokens.py)."""
    config = peft.LoraConfig(
        target_modules=["q_proj"], trainable_token_indices=[7], init_lora_weights="eva", r=2, **CAUSAL
    )
    model = peft.get_peft_model(tiny_models.causal("llama"), config)
    rows = [torch.tensor([row * 4]) for row in ROWS]
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in rows]

    def forward(asked: Any, inputs: Any) -> None:
        asked(input_ids=inputs["input_ids"])

    with pytest.raises(ValueError, match=r"Number of features|not enough values"):
        peft.initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)


def test_lora_only_has_its_biases_in_the_file(tmp_path: Path) -> None:
    """peft before 0.21 lost them, and such folders are refused (test_pipeline_folders.py)."""
    config = peft.LoraConfig(target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True, **CAUSAL)
    adapted(config, "gpt2").save_pretrained(tmp_path)
    assert any(name.endswith(".bias") for name in load_file(tmp_path / "adapter_model.safetensors"))


def test_a_classifiers_pooler_that_its_files_lack_is_not_saved() -> None:
    """It is drawn anew at each loading then; here it is trained and saved (tests/pipeline/test_pipeline_heads.py)."""
    config = AutoConfig.for_model("deberta", **tiny_models.SIZES, **tiny_models.ARCHITECTURES.get("deberta", {}))
    model = AutoModelForSequenceClassification.from_config(config)
    own = peft.get_peft_model(model, peft.LoraConfig(target_modules=["in_proj"], task_type="SEQ_CLS"))
    trained = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert any("classifier" in name for name in trained)
    assert not any("pooler" in name for name in trained)


@pytest.mark.parametrize(
    "config",
    [
        peft.PolyConfig(target_modules=["q_proj"], n_tasks=2, n_skills=2, r=2, **CAUSAL),
        peft.MultitaskPromptTuningConfig(num_virtual_tokens=4, num_tasks=2, **CAUSAL),
    ],
)
def test_task_ids_are_asked_of_each_row_and_such_methods_refused(config: Any) -> None:
    model = peft.get_peft_model(tiny_models.causal("llama"), config)
    with pytest.raises(ValueError, match="task_ids"):
        model(input_ids=torch.tensor([ROWS[0]]))
    with pytest.raises(InputError, match=r"is refused.*: each row must say which task it is of"):
        peft_config({"method": config.peft_type.lower().replace("_", "-")}, "CAUSAL_LM")


def test_shadow_adds_a_loss_of_its_own_where_labels_are_given_and_is_refused() -> None:
    model = peft.get_peft_model(tiny_models.causal("llama"), peft.ShadowConfig(**CAUSAL)).eval()
    ids = torch.tensor([ROWS[0]])
    found = model(input_ids=ids, labels=ids)
    plain = torch.nn.functional.cross_entropy(found.logits[0, :-1], ids[0, 1:])
    assert float(found.loss - plain) > 0.1
    with pytest.raises(InputError, match=r"is refused.*: a part of it is trained only by a loss"):
        peft_config({"method": "shadow"}, "CAUSAL_LM")


def test_kasa_rewrites_the_base_and_is_refused() -> None:
    """LoftQ does too, on a GPU alone (tests/adapters/test_adapters_beginnings.py)."""
    base = tiny_models.causal("llama")
    before = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    config = peft.LoraConfig(target_modules=["q_proj"], r=4, kasa_config=KasaConfig(), **CAUSAL)
    layer = peft.get_peft_model(base, config).base_model.model.model.layers[0].self_attn.q_proj
    assert not torch.equal(layer.base_layer.weight, before)
    with pytest.raises(InputError, match="KaSA rewrites the base's weights"):
        attach(tiny_models.causal("llama"), config, seed=0)


def test_tensors_without_a_place_are_dropped_and_here_refused(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    adapted(peft.LoraConfig(target_modules=["q_proj"], r=4, **CAUSAL)).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name.replace("layers.0", "layers.9"): tensors[name].clone()}, file)
    recwarn.clear()
    peft.PeftModel.from_pretrained(tiny_models.causal("llama"), tmp_path)
    assert not any("layers.9" in str(warning.message) for warning in recwarn)
    with pytest.raises(InputError, match=r"layers\.9"):
        check_fits(tiny_models.causal("llama"), tmp_path, None)
