"""Models and calls that are not as most are: each computed as stock computes it, or left to it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import tiny_models
import tunelift
from tunelift.core.errors import InputError
from tunelift.fast import apply, fusing, restore
from tunelift.fast.head import Asked, Head, over_vocabulary
from tunelift.fast.lora import fused_lora
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.undo import Undo
from tunelift.fast.unpad import sped_up
from tunelift.fast.whole_logits import WholeLogits
from tunelift.model_facts.anatomy import context_length
from tunelift.pipeline.session import Session
from tunelift.tasks import TASKS

IDS = torch.arange(3, 19)[None]
GATED = {
    "granitemoehybrid": {
        **{"layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
        **{"mamba_expand": 2, "num_local_experts": 0, "shared_intermediate_size": 48, "mamba_n_groups": 1},
    },
    "bamba": {
        **{"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2},
        **{"mamba_n_groups": 1},
    },
}


@pytest.mark.parametrize("kind", GATED)
def test_norms_that_take_a_gate(kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**tiny_models.SIZES, **GATED[kind]})).eval()
    plain = model(input_ids=IDS, labels=IDS).loss
    with sped_up(model):
        assert torch.allclose(model(input_ids=IDS, labels=IDS).loss, plain, rtol=1e-5)
        view, _ = target_model(model)
        found = view.log_likelihoods({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, IDS)
    assert torch.allclose(-found.mean(), plain, rtol=1e-5)
    apply(model.train())
    assert torch.allclose(model(input_ids=IDS, labels=IDS).loss, plain, rtol=1e-5)
    restore(model)


def test_a_norm_is_called_with_what_it_is_given() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.rand(16), requires_grad=False), 1e-6

        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            x = x if gate is None else x * F.silu(gate)
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)

    norm, x, undo = Gated(), torch.randn(2, 3, 16), Undo()
    expected = norm(x, x), norm(x, gate=x), norm(x)
    state = fusing.fuse_passes(norm, undo)
    found = norm(x, x), norm(x, gate=x), norm(x)
    undo.all()
    assert state.startswith("on: 1 norms") or state.startswith("off")
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_a_batch_without_targets_is_the_models_own() -> None:
    model = tiny_models.adapted(tiny_models.causal("llama")).train()
    labels = torch.full_like(IDS, -100)
    plain = model(input_ids=IDS, labels=labels).loss
    apply(model)
    found = model(input_ids=IDS, labels=labels).loss
    restore(model)
    assert torch.equal(found.isnan(), plain.isnan()) and (torch.isnan(found) or torch.equal(found, plain))


def test_a_model_that_asks_for_its_attention_by_name_keeps_it() -> None:
    """Falcon's takes no packed rows, and under another name of its attention it gave another loss."""
    torch.manual_seed(0)
    sizes = {key: value for key, value in tiny_models.SIZES.items() if key != "head_dim"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **sizes)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    ids = torch.cat([IDS, IDS.flip(1)])
    plain = model(input_ids=ids, labels=ids).loss
    apply(model)
    assert torch.allclose(model(input_ids=ids, labels=ids).loss, plain, rtol=1e-5)
    restore(model)


class Packed(nn.Module):
    """As quantised layers are: a weight of bytes; and a gate without any parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)
        self.eps = 1e-6
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = (nn.Identity() for _ in range(4))
        self.gate_proj.in_features = 8  # type: ignore[assignment]


def test_layers_of_other_numbers_are_left_alone() -> None:
    assert fusing.fuse_passes(Packed(), Undo()).startswith("off: the model has no parameters that are numbers with")
    assert not fusing.fuse_passes(nn.Sequential(nn.Linear(2, 2), Packed()), Undo()).startswith("on")
    assert fusing.fuse_passes(nn.Identity(), Undo()).startswith("off")


def test_parameters_of_whole_numbers_have_a_size_to_train() -> None:
    model = tiny_models.causal("llama")
    model.table = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    session = Session.of(model, tiny_models.tokenizer(), TASKS.get("causal-lm"))
    assert session.check({"method": "lora", "target_modules": ["q_proj"], "r": 4}).saved == 3 * 4 * (32 + 32) * 4


class Reads(nn.Module):
    """Layers of the names that are run together, of which the last is asked for only at times."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(6, 5), nn.Linear(6, 5)
        self.whole = True

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.gate_proj(x)
        return gate * self.up_proj(x) if self.whole else gate


def test_what_is_never_asked_for_is_not_kept() -> None:
    torch.manual_seed(0)
    inner = Reads()
    model = get_peft_model(inner, LoraConfig(target_modules=["gate_proj", "up_proj"], init_lora_weights=False))
    inner.whole = False
    with fused_lora(model):
        for step in range(4):
            x = torch.randn(2, 6, requires_grad=True)
            alive, found = weakref.ref(x), model(x)
            found.sum().backward()
            del x, found
            gc.collect()
            assert alive() is None or step == 0
        inner.whole = True
        x = torch.randn(2, 6)
        found = model(x)
    assert torch.allclose(found, model(x), atol=1e-6)


@pytest.mark.parametrize("together", [False, True])
def test_what_a_layer_gives_may_be_written_to(together: bool) -> None:
    class Writes(Reads):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.gate_proj(x).mul_(2)
            return found.add_(self.up_proj(x)) if together else found

    torch.manual_seed(0)
    model = get_peft_model(Writes(), LoraConfig(target_modules=["gate_proj", "up_proj"], init_lora_weights=False))
    gradients = []
    for fused in (False, True):
        model.zero_grad()
        x = torch.ones(2, 3, 6)
        if fused:
            with fused_lora(model):
                model(x).square().sum().backward()
        else:
            model(x).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)


def test_a_model_with_an_encoder_is_no_causal_one() -> None:
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    torch.manual_seed(0)
    model = BartForConditionalGeneration(BartConfig(vocab_size=64, d_model=16, max_position_embeddings=64, **sizes))
    view, state = target_model(model)
    assert isinstance(view, WholeLogits) and "an encoder's ids" in state
    for module in model.modules():
        module.dropout = 0.0  # type: ignore[assignment]
    plain = model.train()(input_ids=IDS, labels=IDS).loss
    apply(model)
    assert torch.allclose(model(input_ids=IDS, labels=IDS).loss, plain)
    restore(model)
    with pytest.raises(InputError, match="an encoder reads the one, and a decoder writes the other"):
        tunelift.evaluate(model, tiny_models.tokenizer(), [{"text": "a"}])


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_targets_logit_is_one_of_those_that_the_mass_is_made_of(softcap: float | None) -> None:
    """In bfloat16 a sum of its own was half a nat off, and gave probabilities above 1."""
    torch.manual_seed(0)
    weight, hidden = torch.randn(9000, 64).bfloat16(), torch.randn(40, 64).bfloat16() * 4
    targets = (hidden.float() @ weight.float().t()).argmax(dim=-1)
    logits = (hidden @ weight.t()).float()
    logits = logits if softcap is None else torch.tanh(logits / softcap) * softcap
    expected = torch.log_softmax(logits, -1).gather(1, targets[:, None]).squeeze(1)
    head, asked = Head(weight, softcap=softcap), Asked(torch.arange(40), targets)
    mass, *_ = over_vocabulary(head, hidden, asked=asked)
    found = head.of_plain(asked.plain) - mass
    assert float(found.max()) <= 1e-6
    assert torch.allclose(found, expected, atol=1e-4)
    head.order_by(hidden)
    assert float(head.loss_sum(hidden, targets)) == pytest.approx(-float(expected.sum()), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("kind", "cap"), [("recurrent_gemma", {"logits_soft_cap": 0.1}), ("llama", {})])
def test_logits_are_capped_as_the_model_caps_them(kind: str, cap: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**tiny_models.SIZES, "lru_width": 32, **cap})
    model = AutoModelForCausalLM.from_config(config).eval()
    logits = model(input_ids=IDS).logits
    view, _ = target_model(model)
    found = view.log_likelihoods({"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}, IDS)
    plain = torch.log_softmax(logits, -1)[0, :-1].gather(1, IDS[0, 1:, None]).squeeze(1)
    assert torch.allclose(found, plain, atol=1e-5)


def test_another_loss_of_its_own_is_left_to_the_model() -> None:
    model = tiny_models.causal("llama").train()
    forward = model.forward

    def with_more(**inputs: Any) -> Any:
        output = forward(**inputs)
        if output.loss is not None:
            output.loss = output.loss + 1  # as a router's loss is
        return output

    model.forward = with_more
    assert apply(model)["target_only_head"] == "off: the model's own loss is another"
    assert isinstance(target_model(model)[0], TargetOnly)
    restore(model)


def test_a_label_longer_than_its_reference_must_fit_the_context() -> None:
    tokenizer = tiny_models.tokenizer()
    model = tiny_models.causal("llama", max_position_embeddings=24)
    rows = [{"prompt": "x" * 10, "completion": " a"}, {"prompt": "y", "completion": " " + "b" * 14}]
    scores = tunelift.evaluate(model, tokenizer, rows, metrics=["accuracy"], cache=False)
    assert ["unscored" in row for row in scores.rows] == [True, False]


def test_positions_that_can_be_used() -> None:
    tokenizer = tiny_models.tokenizer()
    roberta = RobertaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    roberta.intermediate_size, roberta.max_position_embeddings, roberta.pad_token_id = 32, 34, 1
    assert context_length(RobertaForSequenceClassification(roberta), tokenizer) == 32
    rope = {
        **{"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [9.0] * 8, "rope_theta": 10000.0},
        **{"original_max_position_embeddings": 16, "factor": 8.0},
    }
    longrope = tiny_models.causal("phi3", rope_parameters=rope, original_max_position_embeddings=16)
    assert context_length(longrope, tokenizer) == 16
    assert context_length(tiny_models.causal("llama"), tokenizer) == 128
