"""The tokenizer that a GGUF file describes, as a stock one of transformers, with the file's own ids for its tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models.architectures import CONTROL, USER_DEFINED, architecture, numbers_of, special_ids
from tunelift.models.word_splits import SPLITS, WHOLE_FIRST, split_name
from tunelift.untrusted.gguf import GgufFile

NOTHING = {"bos_token": None, "eos_token": None, "unk_token": None, "pad_token": None}
"""Without these, classes of transformers add tokens of their own."""


def write(gguf: GgufFile, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template where the file has one) into `folder`.

    Raises InputError, naming the token, where it would not have the file's ids.
    """
    try:
        tokens = gguf.metadata["tokenizer.ggml.tokens"]
        token, count = Counter(tokens).most_common(1)[0]
        if count > 1:  # only one of two ids that stand for one text could ever be had from it
            first = tokens.index(token)
            raise _wrong(gguf, first, token, f"stands for {count} ids, {tokens.index(token, first + 1)} among them")
        vocabulary, added = _write(gguf, folder)
        _check(gguf, folder, vocabulary, added)
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise InputError(f"{gguf.path}: its vocabulary cannot be made into a tokenizer: {error!r}") from error


def _write(gguf: GgufFile, folder: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Write the files; return the vocabulary and the tokens that are found whole."""
    import transformers
    from tokenizers import Tokenizer

    name, kind = architecture(gguf)
    model = gguf.metadata.get("tokenizer.ggml.model")
    makers = {"gpt2": _byte_level, "llama": _gemma if name == "gemma3" else _sentencepiece}
    if model not in makers:
        raise InputError(f"{gguf.path} has a tokenizer of the kind {model!r}, which cannot be converted yet.")
    described, backend = makers[model](gguf)
    added = _added(gguf, described["model"]["vocab"])
    if backend is None or added != described["added_tokens"]:
        backend = Tokenizer.from_str(json.dumps(described | {"added_tokens": added}))
    tokenizer = getattr(transformers, kind.tokenizer)(tokenizer_object=backend, **_settings(gguf))
    tokenizer.save_pretrained(folder)
    return described["model"]["vocab"], added


def _byte_level(gguf: GgufFile) -> tuple[dict[str, Any], None]:
    """Return a byte-level BPE as tokenizer.json has it; its tokens are spelt as the file spells them."""
    from transformers import GPT2Tokenizer

    vocabulary, merges, name = _vocabulary(gguf), _merges(gguf), split_name(gguf)
    if merges is None:
        raise InputError(f"{gguf.path} has no merges (tokenizer.ggml.merges), without which text cannot be split.")
    described = _described(GPT2Tokenizer(vocab=vocabulary, merges=merges))
    described["model"]["ignore_merges"] = name in WHOLE_FIRST
    cut = [
        {"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False} for one in SPLITS[name]
    ]
    spell = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*cut, spell]}
    return described, None


def _sentencepiece(gguf: GgufFile) -> tuple[dict[str, Any], None]:
    """Return a sentencepiece BPE as tokenizer.json has it, its merges in the order of the scores."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    vocabulary, merges = _vocabulary(gguf), _merges(gguf)
    if merges is None:
        scores = numbers_of(gguf, "scores")
        if not scores:
            raise InputError(f"{gguf.path} has neither scores nor merges, without which text cannot be split.")
        merges = generate_merges(vocabulary, dict(zip(vocabulary, scores, strict=True)))
    before = bool(gguf.metadata.get("tokenizer.ggml.add_space_prefix", True))
    described = _described(LlamaTokenizer(vocab=vocabulary, merges=merges, add_prefix_space=before))
    if any(f"<0x{byte:02X}>" not in vocabulary for byte in range(256)):  # or what has no token would vanish
        unknown = special_ids(gguf).get("unk_token")
        if unknown is None:
            raise InputError(f"{gguf.path} has neither a token for every byte nor one for what is unknown.")
        described["model"]["unk_token"] = gguf.metadata["tokenizer.ggml.tokens"][unknown]
    return described, None


def _gemma(gguf: GgufFile) -> tuple[dict[str, Any], Any]:
    """Return Gemma's as transformers' converter makes it; with its own object, which takes seconds to make."""
    import transformers

    try:
        from transformers.integrations.gguf import convert_gguf_tokenizer
    except ImportError:  # that of transformers 5.17, elsewhere, splits Gemma's texts otherwise
        raise InputError(
            f"{gguf.path}: transformers {transformers.__version__} cannot convert its tokenizer.",
            fix='pip install --upgrade "transformers>=5.18", which can.',
        ) from None
    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    parts = {"tokenizer_type": "llama", "tokens": tokens} | {k: numbers_of(gguf, k) for k in ("scores", "token_type")}
    parts["merges"] = gguf.metadata.get("tokenizer.ggml.merges", gemma_merges(tokens))
    backend, _ = convert_gguf_tokenizer("gemma3", parts)
    return json.loads(backend.to_str()), backend


def gemma_merges(tokens: list[str]) -> list[str]:
    """Return the merges that Gemma's vocabulary stands for: a token's splits in two tokens, in the order of the ids.

    The order transformers derives, left part longest first, without its sort of half a million entries.
    """
    # A run of spaces is spelt with real spaces in the file, with the visible space in the merges.
    spelt = ["\u2581" * len(token) if token and not token.strip(" ") else token for token in tokens]
    known = set(spelt)
    return [
        f"{token[:cut]} {token[cut:]}"
        for token in spelt
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in known and token[cut:] in known
    ]


def _vocabulary(gguf: GgufFile) -> dict[str, int]:
    return {token: index for index, token in enumerate(gguf.metadata["tokenizer.ggml.tokens"])}


def _merges(gguf: GgufFile) -> list[tuple[str, ...]] | None:
    merges = gguf.metadata.get("tokenizer.ggml.merges")
    return None if merges is None else [tuple(merge.split(" ")) for merge in merges]


def _described(tokenizer: Any) -> Any:
    """Return what tokenizer.json would say, so that the tokens a class adds of its own can be left out."""
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _added(gguf: GgufFile, vocabulary: dict[str, int]) -> list[dict[str, Any]]:
    """Return the tokens that are found whole in any text, as tokenizer.json has them, in the order of their ids.

    Those are the file's control and user-defined tokens and those with a part to play. Gemma's runs of spaces, which
    its normaliser spells otherwise, are not among them.
    """
    tokens, named = gguf.metadata["tokenizer.ggml.tokens"], set(special_ids(gguf).values())
    kinds = numbers_of(gguf, "token_type") or [0] * len(tokens)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    found = []
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind not in (CONTROL, USER_DEFINED) and index not in named:
            continue
        if not token:
            raise _wrong(gguf, index, token, "has no text")
        if vocabulary.get(token) == index:
            found.append({"id": index, "content": token, **plain, "special": kind == CONTROL or index in named})
    return found


def _settings(gguf: GgufFile) -> dict[str, Any]:
    """Return the keywords of the tokenizer's class: special tokens, whether BOS and EOS are added, the template."""
    tokens, ids = gguf.metadata["tokenizer.ggml.tokens"], special_ids(gguf)
    settings: dict[str, Any] = NOTHING | {name: tokens[index] for name, index in ids.items()}
    if gguf.metadata["general.architecture"] == "gemma3" and "<mask>" not in tokens:
        settings["mask_token"] = None  # or GemmaTokenizer adds one
    for name in ("bos", "eos"):
        asked = gguf.metadata.get(f"tokenizer.ggml.add_{name}_token")
        if asked and f"{name}_token" not in ids:
            raise InputError(f"{gguf.path} asks for {name.upper()} around texts, and names no such token.")
        if asked is None:  # as llama.cpp does then
            sentencepiece = gguf.metadata.get("tokenizer.ggml.model") == "llama"
            asked = name == "bos" and (sentencepiece or gguf.metadata.get("tokenizer.ggml.pre") in WHOLE_FIRST)
        settings[f"add_{name}_token"] = f"{name}_token" in ids and bool(asked)
    if template := gguf.metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings


def _check(gguf: GgufFile, folder: Path, vocabulary: dict[str, int], added: Sequence[dict[str, Any]]) -> None:
    """Read the tokenizer as it will be read, and refuse one whose tokens are not the file's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    found = tokenizer.get_vocab()
    for token, index in sorted(found.items() ^ vocabulary.items(), key=lambda pair: pair[1]):
        there = vocabulary.get(token)
        raise _wrong(gguf, index, token, "is lost" if there == index else "comes out of it and is not in the file")
    whole = tokenizer.backend_tokenizer.encode_batch([one["content"] for one in added], add_special_tokens=False)
    for one, encoded in zip(added, whole, strict=True):
        if encoded.ids != [one["id"]]:
            raise _wrong(gguf, one["id"], one["content"], f"becomes the tokens {encoded.ids[:20]}")
    ids, tokens = special_ids(gguf), gguf.metadata["tokenizer.ggml.tokens"]
    for name in NOTHING | ids:
        if getattr(tokenizer, f"{name}_id") != ids.get(name):
            index = ids.get(name, 0)
            raise _wrong(gguf, index, tokens[index], f"is not the {name}: {getattr(tokenizer, f'{name}_id')} is")
    asked, plain = _settings(gguf), tokenizer("a", add_special_tokens=False).input_ids
    begin, end = (
        [ids[f"{name}_token"]] * asked[f"add_{name}_token"] if f"{name}_token" in ids else [] for name in ("bos", "eos")
    )
    if tokenizer("a").input_ids != [*begin, *plain, *end]:
        raise InputError(f"{gguf.path}: texts begin or end otherwise than the file says ({tokenizer('a').input_ids}).")


def _wrong(gguf: GgufFile, index: int, token: str, what: str) -> InputError:
    return InputError(
        f"{gguf.path}: the token {token[:80]!r} (id {index}) {what}.",
        fix="This tokenizer cannot be converted. Use the model's safetensors, with its tokenizer, from the Hub.",
    )
