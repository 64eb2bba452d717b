"""Every token of a GGUF file that is more than text has the file's id in the imported tokenizer, or is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_models_convert as written
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer
from transformers import AutoConfig, GenerationConfig, LlamaConfig, Qwen2Config
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tunelift.core.errors import InputError
from tunelift.models import convert, load, tokenizers
from tunelift.models.word_splits import SPLITS
from tunelift.untrusted.gguf import GgufFile, read

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [*bytes_to_unicode().values()]
MERGES = ["t h", "th e", "Ġ the", "c a", "ca t", "Ġ cat"]
BAR, BLOCK = "\uff5c", "\u2581"
DEEPSEEK = [
    f"<{BAR}begin{BLOCK}of{BLOCK}sentence{BAR}>",
    f"<{BAR}end{BLOCK}of{BLOCK}sentence{BAR}>",
    f"<{BAR}User{BAR}>",
]

Vocabulary = list[tuple[str, int]]


def byte_level(*more: tuple[str, int]) -> Vocabulary:
    words = ["".join(merge.split(" ")) for merge in MERGES]
    return [*((token, NORMAL) for token in [*BYTES, *words]), *more]


def sentencepiece(*more: tuple[str, int]) -> Vocabulary:
    begin = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    pieces = ["▁", "a", "b", "▁a", "ab", "▁ab"]
    return [*begin, *((f"<0x{i:02X}>", BYTE) for i in range(256)), *((piece, NORMAL) for piece in pieces), *more]


def file_with(path: Path, vocabulary: Vocabulary, kind: str, arch: str = "llama", **keys: Any) -> Path:
    """Write a tiny model with this vocabulary; `keys` are those below tokenizer.ggml, None for one to be left out."""
    tokens, kinds = zip(*vocabulary, strict=True)
    made: dict[str, Any] = {"token_type": list(kinds), "tokens": list(tokens), "model": kind}
    made |= (
        {"pre": "llama-bpe", "merges": MERGES}
        if kind == "gpt2"
        else {"scores": [-float(i) for i in range(len(tokens))]}
    )
    rope = {"rope_type": "default", "rope_theta": 5e4}
    sizes = written.COMMON | {"vocab_size": len(tokens), "rope_parameters": rope}
    config = Qwen2Config(**sizes) if arch == "qwen2" else LlamaConfig(**sizes)

    def describe(writer: GGUFWriter, _: str) -> None:
        for key, value in (made | keys).items():
            add(writer, f"tokenizer.ggml.{key}", value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "add_tokenizer", describe)
        return written.write_gguf(path, arch, written.random_model(config))


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def check(path: Path, vocabulary: Vocabulary, **expected: int | None) -> Any:
    """Load the file and compare every id; return what was loaded."""
    loaded = load(path, dtype="float32")
    tokenizer = loaded.tokenizer
    assert tokenizer.get_vocab() == {token: index for index, (token, _) in enumerate(vocabulary)}
    assert len(tokenizer) == len(vocabulary) == loaded.model.get_input_embeddings().num_embeddings
    for index, (token, kind) in enumerate(vocabulary):
        assert tokenizer.convert_ids_to_tokens(index) == token
        assert tokenizer.convert_tokens_to_ids(token) == index
        if kind in (CONTROL, USER_DEFINED):
            assert tokenizer(token, add_special_tokens=False).input_ids == [index], token
            around = tokenizer(f"a{token}b", add_special_tokens=False).input_ids
            assert around.count(index) == 1, token
            assert (index in tokenizer.all_special_ids) >= (index in expected.values())
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(tokenizer, f"{name}_token_id") == expected.get(name), name
    config = AutoConfig.from_pretrained(loaded.identity.path)
    assert (config.bos_token_id, config.eos_token_id) == (expected.get("bos"), expected.get("eos"))
    return loaded


def test_a_deepseek_style_file_of_263_tokens(tmp_path: Path) -> None:
    """transformers 5.23 by itself: BOS becomes 264, EOS 265, and the control token twelve tokens of bytes."""
    extra = [*((token, CONTROL) for token in DEEPSEEK), ("<think>", USER_DEFINED)]
    vocabulary = [*byte_level()[:259], *extra]
    assert len(vocabulary) == 263
    keys = {"pre": "deepseek-v3", "merges": MERGES[:3], "bos_token_id": 259, "eos_token_id": 260, "add_bos_token": True}
    loaded = check(file_with(tmp_path / "d.gguf", vocabulary, "gpt2", **keys), vocabulary, bos=259, eos=260)
    ids = loaded.tokenizer(f"{DEEPSEEK[2]}the").input_ids
    assert ids == [259, 261, 257]
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == "the"
    assert loaded.tokenizer.decode(ids) == f"{DEEPSEEK[0]}{DEEPSEEK[2]}the"
    assert torch.isfinite(loaded.model(torch.tensor([ids])).logits).all()


SPACES = [(" " * count, USER_DEFINED) for count in (2, 3, 4)]
SPELT: Vocabulary = [("<|end of text|>", CONTROL), ("[日本]", CONTROL), ("<tool call>", USER_DEFINED), *SPACES]


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_vocabularies_by_every_way_to_split(pre: str, tmp_path: Path) -> None:
    vocabulary = byte_level(("<|endoftext|>", CONTROL), *SPELT, ("[PAD1]", UNUSED))
    path = file_with(tmp_path / "b.gguf", vocabulary, "gpt2", pre=pre, eos_token_id=262, padding_token_id=262)
    tokenizer = check(path, vocabulary, eos=262, pad=262).tokenizer
    for text in (*written.BYTE_TEXTS, "Don't  STOP\t\n\n 1234567 a/b//c", "日本語のテキスト e\u0301 ﬁ"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(("pre", "pieces"), [
    ("gpt-2", ["abc", "12345", " it", "'s"]),
    ("smollm", ["abc", "1", "2", "3", "4", "5", " it", "'s"]),
    ("llama-bpe", ["abc", "123", "45", " it", "'s"]),
    ("qwen2", ["abc", "1", "2", "3", "4", "5", " it", "'s"]),
    ("deepseek-v3", ["abc", "123", "45", " it", "'s"]),
    ("deepseek-coder", ["abc", "1", "2", "3", "4", "5", " it", "'", "s"]),
    ("tekken", ["abc", "1", "2", "3", "4", "5", " it", "'s"]),
    ("gpt-4o", ["abc", "123", "45", " it's"]),
])  # fmt: skip
def test_text_is_split_as_the_file_says(pre: str, pieces: list[str], tmp_path: Path) -> None:
    tokenizer = load(file_with(tmp_path / "b.gguf", byte_level(), "gpt2", pre=pre)).tokenizer
    text = "".join(pieces)
    found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[begin:end] for _, (begin, end) in found] == pieces


def test_a_piece_that_is_a_token_is_whole_where_the_family_has_it_so(tmp_path: Path) -> None:
    vocabulary = byte_level(("Ġhat", NORMAL))  # no merge leads to it
    for pre, whole in (("llama-bpe", True), ("qwen2", False)):
        tokenizer = load(file_with(tmp_path / f"{pre}.gguf", vocabulary, "gpt2", pre=pre)).tokenizer
        assert (tokenizer(" hat").input_ids == [262]) == whole


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize(("pre", "usual"), [("llama-bpe", True), ("tekken", True), ("gpt-2", False), ("qwen2", False)])
def test_bos_comes_first_where_the_file_or_its_family_says_so(
    pre: str, usual: bool, said: bool | None, tmp_path: Path
) -> None:
    vocabulary = byte_level(("<|begin|>", CONTROL), ("<|end|>", CONTROL))
    keys = {"pre": pre, "bos_token_id": 262, "eos_token_id": 263, "add_bos_token": said}
    tokenizer = check(
        file_with(tmp_path / "b.gguf", vocabulary, "gpt2", **keys), vocabulary, bos=262, eos=263
    ).tokenizer
    assert (tokenizer("the").input_ids[0] == 262) == (usual if said is None else said)


@pytest.mark.parametrize("spaced", [True, False, None])
def test_sentencepiece_with_and_without_a_space_before(spaced: bool | None, tmp_path: Path) -> None:
    vocabulary = sentencepiece(("<|im_start|>", CONTROL), ("  ", USER_DEFINED), ("<tool>", USER_DEFINED))
    keys = {"add_space_prefix": spaced, "bos_token_id": 1, "eos_token_id": 265, "unknown_token_id": 0}
    tokenizer = check(
        file_with(tmp_path / "s.gguf", vocabulary, "llama", **keys), vocabulary, bos=1, eos=265, unk=0
    ).tokenizer
    assert tokenizer("ab").input_ids == ([1, 263] if spaced is False else [1, 264])
    assert tokenizer.decode(tokenizer("ab").input_ids, skip_special_tokens=True) == "ab"


def test_sentencepiece_that_names_no_special_tokens_has_llama_cpps(tmp_path: Path) -> None:
    vocabulary = sentencepiece()
    tokenizer = check(file_with(tmp_path / "s.gguf", vocabulary, "llama"), vocabulary, bos=1, eos=2, unk=0).tokenizer
    assert tokenizer("ab").input_ids == [1, 264]


def test_sentencepiece_without_them_gets_none_of_transformers_own(tmp_path: Path) -> None:
    vocabulary = [(f"<0x{i:02X}>", BYTE) for i in range(256)] + [("▁", NORMAL), ("a", NORMAL), ("▁a", NORMAL)]
    tokenizer = check(file_with(tmp_path / "s.gguf", vocabulary, "llama"), vocabulary).tokenizer
    assert tokenizer("a").input_ids == [258]


def test_without_kinds_the_named_tokens_are_special(tmp_path: Path) -> None:
    vocabulary = byte_level((DEEPSEEK[0], NORMAL), (DEEPSEEK[1], NORMAL))
    keys = {"token_type": None, "bos_token_id": 262, "eos_token_id": 263}
    tokenizer = check(
        file_with(tmp_path / "b.gguf", vocabulary, "gpt2", **keys), vocabulary, bos=262, eos=263
    ).tokenizer
    assert tokenizer(DEEPSEEK[1], add_special_tokens=False).input_ids == [263]


def test_every_token_that_ends_an_answer_ends_generation(tmp_path: Path) -> None:
    vocabulary = byte_level(*((f"<|{name}|>", CONTROL) for name in ("end", "eot", "eom")))
    keys = {"pre": "gpt-2", "eos_token_id": 262, "eot_token_id": 263, "eom_token_id": 264}
    loaded = check(file_with(tmp_path / "b.gguf", vocabulary, "gpt2", **keys), vocabulary, eos=262)
    assert GenerationConfig.from_pretrained(loaded.identity.path).eos_token_id == [262, 263, 264]
    assert loaded.model.generation_config.eos_token_id == [262, 263, 264]


def in_memory(vocabulary: Vocabulary, kind: str, arch: str = "llama", **keys: Any) -> GgufFile:
    tokens, kinds = zip(*vocabulary, strict=True)
    made: dict[str, Any] = {"tokens": list(tokens), "token_type": np.array(kinds), "model": kind, "pre": "gpt-2"}
    made |= {"merges": MERGES} if kind == "gpt2" else {"scores": np.arange(len(tokens))}
    named = {f"tokenizer.ggml.{key}": value for key, value in (made | keys).items() if value is not None}
    return GgufFile(Path("tiny.gguf"), {"general.architecture": arch, **named}, {}, memoryview(b""))


@pytest.mark.parametrize(
    ("gguf", "message"),
    [
        (in_memory(byte_level(("<|a|>", CONTROL), ("<|a|>", CONTROL)), "gpt2"), r"'<\|a\|>' \(id 262\).* 2 ids, 263"),
        (in_memory(byte_level(("the", NORMAL)), "gpt2"), r"'the' \(id 257\).* 2 ids, 262"),
        (in_memory(byte_level(("", CONTROL)), "gpt2"), r"'' \(id 262\) has no text"),
        (in_memory(byte_level(), "gpt2", pre="deepseek-llm"), r"'deepseek-llm' \(.*pre\).*\n.*Known: gpt-2"),
        (in_memory(byte_level(), "gpt2", pre=None), "does not say how text is split"),
        (in_memory(byte_level(), "gpt2", merges=None), "has no merges"),
        (in_memory(sentencepiece(), "llama", scores=None), "neither scores nor merges"),
        (in_memory(sentencepiece(), "llama", scores=np.ones(1)), "265 tokens, but 1 values of scores"),
        (in_memory(byte_level(), "gpt2", token_type=np.ones(1)), "262 tokens, but 1 values of token_type"),
        (in_memory(byte_level(), "gpt2", add_bos_token=True), "asks for BOS around texts, and names no such token"),
        (in_memory(byte_level(), "gpt2", add_eos_token=True), "asks for EOS around texts, and names no such token"),
        (in_memory(byte_level(), "gpt2", bos_token_id=262), "bos_token_id is 262, not the id of a token"),
        (in_memory(byte_level(), "gpt2", token_type="x"), "262 tokens, but other values of token_type"),
        (in_memory(byte_level(), "gpt2", merges=np.ones(2)), "cannot be made into a tokenizer"),
        (in_memory(byte_level(), "gpt2", pre=["gpt-2"]), "cannot be made into a tokenizer"),
        (in_memory(byte_level(), "gpt2", add_bos_token=np.ones(2)), "cannot be made into a tokenizer"),
        (in_memory(byte_level(), "t5"), "a tokenizer of the kind 't5'"),
        (in_memory(sentencepiece()[1:200], "llama", bos_token_id=0), "neither a token for every byte nor"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused(gguf: GgufFile, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        tokenizers.write(gguf, tmp_path)


def test_a_token_that_is_lost_on_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf, plain = (
        in_memory(byte_level(("<|a|>", CONTROL), ("<|b|>", CONTROL)), "gpt2", eos_token_id=263),
        tokenizers._added,
    )
    monkeypatch.setattr(
        tokenizers, "_added", lambda *given: [*plain(*given), {**plain(*given)[0], "id": 9, "content": "the"}]
    )
    with pytest.raises(InputError, match=r"the token '.*' \(id \d+\)"):
        tokenizers.write(gguf, tmp_path)


def test_an_old_file_of_one_family_is_split_as_that_family_is(tmp_path: Path) -> None:
    for arch, digits in (("gpt2", 1), ("qwen2", 3)):
        (tmp_path / arch).mkdir()
        tokenizers.write(in_memory(byte_level(), "gpt2", arch, pre="default"), tmp_path / arch)
        described = json.loads((tmp_path / arch / "tokenizer.json").read_text(encoding="utf-8"))
        cut = Tokenizer.from_str(json.dumps(described)).pre_tokenizer.pre_tokenize_str("123")
        assert len(cut) == digits


def test_orders_of_ids_and_kinds_at_random(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [*DEEPSEEK, "<|x|>", "<x y>", "\t\t", "日本", "  ", "<s>", "</s>", "<unk>", "[UNK]", "<|endoftext|>"]
    for attempt in range(12):
        kinds = rng.integers(NORMAL, UNUSED + 1, len(names))
        vocabulary = byte_level(*zip(names, map(int, kinds), strict=True))
        rng.shuffle(vocabulary)
        vocabulary = [(str(token), int(kind)) for token, kind in vocabulary]
        place = {token: index for index, (token, _) in enumerate(vocabulary)}
        bos, eos = (place[names[i]] for i in rng.choice(len(names), 2, replace=False))
        keys = {"bos_token_id": bos, "eos_token_id": eos, "pre": [*SPLITS][attempt]}
        check(file_with(tmp_path / f"{attempt}.gguf", vocabulary, "gpt2", **keys), vocabulary, bos=bos, eos=eos)
    assert len(list(itertools.islice(convert.place("x", "y").parent.iterdir(), 12))) == 12
    assert read(tmp_path / "0.gguf").metadata["tokenizer.ggml.model"] == "gpt2"
