"""GGUF files written from tiny random models, as llama.cpp writes them, become the models they came from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from transformers.integrations import gguf as gguf_integration

from tunelift.core.errors import InputError
from tunelift.models import convert, load, tokenizers
from tunelift.untrusted.gguf import read

BYTE_TEXTS = ["the cat", " the  cat\n\nsat", "naïve 日本 😀", "12345 it's"]
COMMON = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMON |= {"num_key_value_heads": 2, "max_position_embeddings": 64}


def gemma3() -> Any:
    rope = {"full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0}}
    return transformers.Gemma3TextConfig(**COMMON, head_dim=16, sliding_window=4, vocab_size=300, rope_parameters=rope)


def llama() -> Any:
    rope = {"rope_type": "default", "rope_theta": 5e4}
    return transformers.LlamaConfig(**COMMON, vocab_size=300, tie_word_embeddings=False, rope_parameters=rope)


def qwen2() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return transformers.Qwen2Config(**COMMON, vocab_size=300, tie_word_embeddings=True, rope_parameters=rope)


def qwen3() -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return transformers.Qwen3Config(**COMMON, vocab_size=300, head_dim=16, rope_parameters=rope)


def gpt2() -> Any:
    return transformers.GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, n_inner=64)


CONFIGS: dict[str, Callable[[], Any]] = {
    "gemma3": gemma3,
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gpt2": gpt2,
}


def random_model(config: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weights in model.parameters():  # norms and biases are constant at the start, and would hide a mistake
            weights.add_(torch.randn_like(weights) * 0.1)
    return model


def as_llama_cpp(arch: str, name: str, weights: np.ndarray, config: Any) -> np.ndarray:
    """What convert_hf_to_gguf.py of llama.cpp does to the values."""
    if arch == "gemma3" and name.endswith("norm.weight"):
        return weights + 1
    if arch == "gpt2" and name.endswith(("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")):
        return np.ascontiguousarray(weights.T)
    heads = {"attn_q.weight": "num_attention_heads", "attn_k.weight": "num_key_value_heads"}
    for suffix, key in heads.items():
        if arch == "llama" and name.endswith(suffix):
            count = getattr(config, key)
            halves = weights.reshape(count, 2, weights.shape[0] // count // 2, *weights.shape[1:])
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
    return weights


def byte_vocabulary() -> tuple[list[str], list[str], Any]:
    """A byte-level vocabulary with a few merges, padded to 300 tokens, and the tokenizer it describes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["t h", "th e", "Ġ the", "c a", "ca t", "Ġ cat"]
    tokens = [*bytes_to_unicode().values(), *("".join(merge.split(" ")) for merge in merges)]
    tokens += [f"<|spare{index}|>" for index in range(300 - len(tokens))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    return tokens, merges, transformers.GPT2Tokenizer(vocab=vocabulary, merges=pairs)


def sentencepiece_vocabulary() -> tuple[list[str], list[float], list[int]]:
    pieces = ["▁", "  ", "\n", "a", "b", "c", "▁a", "ab", "▁ab"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *pieces, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [3, 3, 3, 3, 1, 4, 4, *[1] * 6, *[6] * 256]
    spare = 300 - len(tokens)
    return (
        [*tokens, *(f"<unused{index}>" for index in range(spare))],
        [-float(index) for index in range(300)],
        [*kinds, *[3] * spare],
    )


def add_tokenizer(writer: GGUFWriter, arch: str) -> None:
    if arch in ("gemma3", "llama"):
        tokens, scores, kinds = sentencepiece_vocabulary()
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        for add, index in ((writer.add_bos_token_id, 2), (writer.add_eos_token_id, 1), (writer.add_pad_token_id, 0)):
            add(index)
        writer.add_unk_token_id(3)
    else:
        tokens, merges, _ = byte_vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if arch.startswith("qwen") else "gpt-2")
        writer.add_token_merges(merges)
        writer.add_eos_token_id(299)
        writer.add_chat_template("{{ messages[0].content }}!")
    writer.add_token_list(tokens)


def add_sizes(writer: GGUFWriter, arch: str, config: Any) -> None:
    writer.add_context_length(64)
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if arch in ("gemma3", "qwen3"):
        writer.add_key_length(16)
    if arch == "gemma3":
        writer.add_sliding_window(4)
        writer.add_string("gemma3.rope.scaling.type", "linear")
        writer.add_float32("gemma3.rope.scaling.factor", rope["factor"])


def write_gguf(
    path: Path,
    arch: str,
    model: Any,
    change: Callable[[dict[str, Any]], None] = lambda tensors: None,
    kinds: Callable[[str], GGMLQuantizationType] = lambda name: GGMLQuantizationType.Q8_0,
) -> Path:
    """Write the model; `change` may spoil the tensors (by name) first; those in bytes are of the `kinds` it says."""
    writer = GGUFWriter(path, arch)
    add_sizes(writer, arch, model.config)
    add_tokenizer(writer, arch)
    key = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(key, 2)
    tensors = {}
    for parameter, weights in model.named_parameters():
        stem, _, suffix = parameter.rpartition(".")
        name = f"{names.get_name(stem)}.{suffix}"
        tensors[name] = as_llama_cpp(arch, name, weights.detach().numpy(), model.config)
    change(tensors)
    for name, values in tensors.items():
        kind = kinds(name) if values.dtype == np.uint8 else None
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def needs_its_tokenizer(arch: str) -> None:
    if arch == "gemma3" and not hasattr(gguf_integration, "convert_gguf_tokenizer"):
        pytest.skip("this version of transformers cannot convert Gemma's tokenizer, and is refused")


@pytest.mark.parametrize("arch", CONFIGS)
def test_converted_model_is_the_model_it_came_from(arch: str, tmp_path: Path) -> None:
    needs_its_tokenizer(arch)
    original = random_model(CONFIGS[arch]())
    path = write_gguf(tmp_path / f"tiny-{arch}.gguf", arch, original)
    loaded = load(path, dtype="float32")
    ids = torch.arange(24).reshape(2, 12) + 5
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    assert loaded.identity.kind == "gguf"
    assert "dequantised" in loaded.identity.note
    assert (Path(loaded.identity.path) / "generation_config.json").is_file()
    assert loaded.model.generation_config.eos_token_id == (1 if arch in ("gemma3", "llama") else 299)


def test_the_second_load_reads_the_converted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", "llama", random_model(llama()))
    first = load(path, dtype="float32")
    monkeypatch.setattr(convert, "write", lambda *_, **__: pytest.fail("converted again"))
    second = load(path, dtype="float32")
    assert second.identity == first.identity


def test_quantised_tensors_are_dequantised(tmp_path: Path) -> None:
    name = "blk.0.ffn_up.weight"
    packed: dict[str, Any] = {}

    def pack(tensors: dict[str, Any]) -> None:
        packed[name] = tensors[name] = quantize(tensors[name], GGMLQuantizationType.Q8_0)

    path = write_gguf(tmp_path / "tiny.gguf", "llama", random_model(llama()), pack)
    weights = load(path, dtype="float32").model.model.layers[0].mlp.up_proj.weight
    assert np.array_equal(weights.detach().numpy(), dequantize(packed[name], GGMLQuantizationType.Q8_0))


def test_weights_larger_than_a_shard_are_split_and_load_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SHARD_BYTES", 40_000)
    original = random_model(qwen3())
    loaded = load(write_gguf(tmp_path / "tiny.gguf", "qwen3", original), dtype="float32")
    assert len(list(Path(loaded.identity.path).glob("model-*-of-*.safetensors"))) > 1
    ids = torch.arange(10).reshape(1, 10)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, original(ids).logits)


def test_large_weights_are_stored_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "EXACT_BYTES", 1000)
    loaded = load(write_gguf(tmp_path / "tiny.gguf", "gpt2", random_model(gpt2())), dtype="float32")
    assert transformers.AutoConfig.from_pretrained(loaded.identity.path).dtype == torch.bfloat16


@pytest.mark.parametrize("arch", ["gpt2", "qwen2"])
def test_byte_level_tokenizer_and_chat_template(arch: str, tmp_path: Path) -> None:
    tokenizer = load(write_gguf(tmp_path / "tiny.gguf", arch, random_model(CONFIGS[arch]()))).tokenizer
    _, _, expected = byte_vocabulary()
    assert tokenizer.eos_token_id == 299
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    for line in BYTE_TEXTS:
        ids = tokenizer(line).input_ids
        assert tokenizer.decode(ids) == line
        if arch == "gpt2":
            assert ids == expected(line).input_ids
    assert tokenizer("the cat").input_ids == expected("the cat").input_ids  # no BOS: the file does not ask for one


@pytest.mark.parametrize(("arch", "ids"), [("gemma3", [2, 12, 8, 5, 7, 6, 269]), ("llama", [2, 12, 8])])
def test_sentencepiece_tokenizer_puts_bos_first(arch: str, ids: list[int], tmp_path: Path) -> None:
    needs_its_tokenizer(arch)
    tokenizer = load(write_gguf(tmp_path / "tiny.gguf", arch, random_model(CONFIGS[arch]()))).tokenizer
    line = " abb  a\n<unused0>" if arch == "gemma3" else "abb"
    assert tokenizer(line).input_ids == ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)


def test_gemma_merges_are_those_that_transformers_derives() -> None:
    from transformers.tokenization_utils_base import generate_merges

    tokens = ["<unk>", "▁", "a", "b", "ab", "▁a", "▁ab", "abb", "▁▁", "bb", "  "]
    spelt = [*tokens[:-1], "▁▁"]
    vocabulary = {token: index for index, token in enumerate(spelt[:-1])}
    expected = generate_merges(vocabulary, {token: -index for token, index in vocabulary.items()})
    assert tokenizers.gemma_merges(tokens[:-1]) == [" ".join(merge) for merge in expected]
    assert tokenizers.gemma_merges(["▁", "  "]) == ["▁ ▁"]


def drop(tensors: dict[str, Any]) -> None:
    del tensors["blk.1.attn_k.weight"]


def add(tensors: dict[str, Any]) -> None:
    tensors["blk.0.attn_sinks.weight"] = np.zeros(4, np.float32)


def scale(tensors: dict[str, Any]) -> None:
    tensors["rope_freqs.weight"] = np.ones(4, np.float32)


def widen(tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = np.zeros((65, 32), np.float32)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, r"lacks the tensor blk\.1\.attn_k\.weight"),
        (add, r"lacks: blk\.0\.attn_sinks\.weight"),
        (scale, "rotary frequencies"),
        (widen, r"blk\.0\.ffn_up\.weight has the shape \(65, 32\), not \(64, 32\)"),
    ],
)
def test_a_file_that_is_not_wholly_understood_is_refused(
    spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", "llama", random_model(llama()), spoil)
    with pytest.raises(InputError, match=message):
        load(path)
    assert not list(convert.place("tiny", "0" * 64).parent.glob("*tiny-*v1/*"))  # nothing half made is left


def test_damaged_files_are_converted_or_refused_and_never_crash(tmp_path: Path) -> None:
    raw = write_gguf(tmp_path / "tiny.gguf", "gemma3", random_model(gemma3())).read_bytes()
    head = min(tensor.start for tensor in read(tmp_path / "tiny.gguf").tensors.values())
    rng = random.Random(0)
    refused = 0
    for attempt in range(150):
        spoilt = bytearray(raw)
        spoilt[rng.randrange(rng.choice([900, head]))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        (tmp_path / "spoilt.gguf").write_bytes(spoilt)
        folder = tmp_path / f"spoilt{attempt}"
        folder.mkdir()
        try:
            convert.write(read(tmp_path / "spoilt.gguf"), folder)
        except InputError:
            refused += 1
    assert refused > 50


def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "tiny.gguf", "bloom")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"'bloom'.*\n.*gemma3, gpt2, llama, qwen2, qwen3"):
        load(tmp_path / "tiny.gguf")
