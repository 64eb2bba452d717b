"""What is written as GGUF, read back: by our own reader, and tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer

import exported
import tiny_models
from exported import KINDS
from tiny_tokenizers import CHAT, CHAT_WITH_BOS, STRICT, bert_like, merging
from tunelift.core.errors import InputError
from tunelift.exporting import gguf_config, gguf_file, gguf_lora, gguf_vocabulary, gguf_weights, ollama
from tunelift.exporting.equality import equal
from tunelift.models import convert
from tunelift.models.architectures import ARCHITECTURES
from tunelift.untrusted.gguf import read

PATTERNS = {"use_rslora": True, "alpha_pattern": {"o_proj": 3}, "rank_pattern": {"down_proj": 2}, "lora_alpha": 7}
READ_BACK = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]
"""Gemma's tokenizer is read as its own, which the tiny one is not; mixtures of experts are not read."""


@pytest.mark.parametrize("kind", READ_BACK)
def test_our_own_reader_makes_the_same_model_of_it(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = exported.model(kind, attention_bias=False)
    file = exported.write_base(tmp_path / "model.gguf", model)
    folder = tmp_path / "read"
    folder.mkdir()
    convert.write(read(file), folder)
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = exported.items()
    # The same numbers lie elsewhere in memory, and products round by where: 3e-6 of a score of 9 was seen.
    assert equal(exported.scores(model, asked), exported.scores(again, asked), 1e-5).holds
    names = dict(again.named_parameters())
    assert all(torch.equal(own, names[name]) for name, own in model.named_parameters())
    tokenizer, ours = AutoTokenizer.from_pretrained(folder), exported.tokenizer()
    text = "the cat  sat\n\u00fcber \u732b 1234"
    assert tokenizer(text).input_ids == ours(text).input_ids
    assert tokenizer.chat_template == ours.chat_template


@pytest.mark.parametrize("kind", KINDS)
def test_every_turn_takes_back_the_other(kind: str) -> None:
    name, row = gguf_config.written_as(kind)
    values = {"num_attention_heads": 4, "num_key_value_heads": 2}
    draw = np.random.default_rng(0)
    for tensor in ("blk.0.attn_q.weight", "blk.0.attn_k.bias", "output_norm.weight", "blk.0.ffn_up.weight"):
        weights = draw.normal(size=(16, 8) if tensor.endswith("q.weight") else 16).astype(np.float32)
        weights = draw.normal(size=(16, 8)).astype(np.float32) if "ffn" in tensor else weights
        there = row.turn.write(tensor, weights, values)
        np.testing.assert_allclose(row.turn.read(tensor, there, values), weights, atol=1e-6)
    assert ARCHITECTURES[name] is row


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text", "phi3", "gpt2"])
def test_an_adapter_adds_to_the_file_of_its_base_what_peft_adds(kind: str, tmp_path: Path) -> None:
    adapted = tiny_models.adapted(exported.model(kind), **PATTERNS)
    layout = gguf_weights.Layout.of(adapted.config)
    changed = {path: layer for path, layer in adapted.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    gguf_lora.write_lora(tmp_path / "adapter.gguf", adapted, "tiny", "f32")
    file = read(tmp_path / "adapter.gguf")
    found = {name: file.blocks(name).view(np.float32) for name in file.tensors}
    assert file.metadata["adapter.lora.alpha"] == 0  # nothing is multiplied there once more
    assert len(changed) == len(found) / 2 > 4
    for path, layer in changed.items():
        name = f"{layout.name(path)}.weight"
        delta = layer.get_delta_weight("default").detach().numpy()
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        if "norm" not in name:
            np.testing.assert_allclose(b @ a, layout.turned(name, delta), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["norm"]}, "trained whole"),
        ({"trainable_token_indices": [3]}, "trained tokens"),
    ],
)
def test_what_llama_cpp_leaves_out_is_refused(settings: dict[str, object], what: str) -> None:
    config = LoraConfig(target_modules=["q_proj"], r=2, **settings)  # type: ignore[arg-type]
    adapted = get_peft_model(tiny_models.causal("llama", attention_bias=True), config)
    with pytest.raises(InputError, match="--to gguf") as error:
        gguf_lora.check_lora(adapted)
    assert what in str(error.value)


def test_a_lora_on_tied_weights_is_refused_and_on_others_written() -> None:
    for tied in (True, False):
        config = LoraConfig(target_modules=["embed_tokens", "lm_head"], r=2)
        adapted = get_peft_model(tiny_models.causal("llama", tie_word_embeddings=tied), config)
        if tied:
            with pytest.raises(InputError, match="one tensor"):
                gguf_lora.check_lora(adapted)
        else:
            gguf_lora.check_lora(adapted)


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("bloom", {}, "not written"),
        ("llama", {"hidden_act": "gelu"}, "activation"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "yarn"),
        ("gemma3_text", {"query_pre_attn_scalar": 99}, "query_pre_attn_scalar"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "every 2th"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
    ],
)
def test_a_config_that_llama_cpp_computes_otherwise_is_refused(
    kind: str, changes: dict[str, object], what: str
) -> None:
    config = tiny_models.causal(kind, **{**KINDS.get(kind, {}), **changes}).config
    with pytest.raises(InputError, match=what):
        gguf_config.metadata(config)


def test_a_context_that_a_window_cuts_is_the_window() -> None:
    config = tiny_models.causal("mistral", sliding_window=32).config
    assert gguf_config.metadata(config)["llama.context_length"] == 32


@pytest.mark.parametrize("tokenizer", [bert_like, merging])
def test_tokenizers_that_llama_cpp_has_no_name_for_are_refused(tokenizer: object) -> None:
    config = tiny_models.causal("llama").config
    with pytest.raises(InputError, match=r"llama\.cpp's own converter"):
        gguf_vocabulary.vocabulary(tokenizer(), config, [1])  # type: ignore[operator]


def test_rows_without_a_token_are_unused_and_tokens_without_a_row_refused() -> None:
    tokenizer = exported.tokenizer()
    size = len(tokenizer)
    found = gguf_vocabulary.vocabulary(tokenizer, tiny_models.causal("llama", vocab_size=size + 3).config, [1, 3])
    assert found["tokenizer.ggml.tokens"][-3:] == [f"[PAD{size + i}]" for i in range(3)]
    assert found["tokenizer.ggml.token_type"][-4:] == [1, 5, 5, 5]
    assert found["tokenizer.ggml.eot_token_id"] == 3
    with pytest.raises(InputError, match="rows for"):
        gguf_vocabulary.vocabulary(tokenizer, tiny_models.causal("llama", vocab_size=size - 1).config, [1])


@pytest.mark.parametrize(("kind", "most"), [("f16", 1e-3), ("bf16", 8e-3), ("q8_0", 1e-2)])
def test_rounded_types_are_near_and_what_they_do_not_fit_is_counted(kind: str, most: float, tmp_path: Path) -> None:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    model = exported.model("qwen3", intermediate_size=48)
    said = gguf_file.model_metadata(model.config, exported.tokenizer(), [1], "tiny", kind)
    types = gguf_file.write_model(tmp_path / "model.gguf", model, said, kind)
    file = read(tmp_path / "model.gguf")
    down = file.tensors["blk.0.ffn_down.weight"]
    used = GGMLQuantizationType(down.type)
    assert used.name.lower() == ("f16" if kind == "q8_0" else kind)
    assert types["f32"] == sum(len(one.shape) == 1 for one in file.tensors.values())
    for parameter, name in (("self_attn.o_proj", "attn_output"), ("mlp.down_proj", "ffn_down")):
        exact = model.get_submodule(f"model.layers.0.{parameter}").weight.detach().numpy()
        tensor = file.tensors[f"blk.0.{name}.weight"]
        there = dequantize(file.blocks(tensor.name), GGMLQuantizationType(tensor.type)).reshape(exact.shape)
        assert 0 < np.abs(there - exact).max() < most * np.abs(exact).max()


ROUND = """FROM ./model.gguf
TEMPLATE \"\"\"{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}<|im_start|>user
{{ .Prompt }}<|im_end|>
<|im_start|>assistant
{{ .Response }}<|im_end|>
\"\"\"
PARAMETER stop "</s>"
PARAMETER stop "<|im_end|>"
PARAMETER temperature 0
"""


@pytest.mark.parametrize("template", [CHAT, CHAT_WITH_BOS, STRICT, None])
def test_a_modelfile_has_the_template_where_text_stands_around_messages_and_prompts_as_they_are_elsewhere(
    template: str | None,
) -> None:
    written = ollama.modelfile("./model.gguf", exported.tokenizer(template=template), [1, 3])
    if template in (CHAT, CHAT_WITH_BOS):
        assert written == ROUND
    else:
        assert 'TEMPLATE """{{ .Prompt }}"""' in written and 'stop "</s>"' in written


def test_equal_finds_the_worst_and_no_number_is_never_equal() -> None:
    a = {"x": [-1.0, -2.0], "y": [-3.0]}
    assert equal(a, {"x": [-1.0, -2.5], "y": [-3.0]}, 0.4).to_dict() == {
        **{"holds": False, "largest": 0.5, "tolerance": 0.4, "item": "x", "items": 2, "tokens": 3}
    }
    assert equal(a, a, 0).holds
    for other in ({"x": [-1.0, -2.0]}, {"x": [-1.0], "y": [-3.0]}, {**a, "y": [float("nan")]}, {**a, "z": [0.0]}):
        assert not equal(a, other, 1e9).holds
    assert not equal({}, {}, 1).holds
    assert torch.isfinite(torch.tensor(equal(a, a, 0).largest))
