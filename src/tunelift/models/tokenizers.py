"""The tokenizer that a GGUF file describes, as a stock transformers tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models.architectures import architecture, token_id
from tunelift.models.gguf import GgufFile

PARTS = {
    "ggml.model": "tokenizer_type",
    "ggml.pre": "pre_tokenizer_type",
    "ggml.tokens": "tokens",
    "ggml.scores": "scores",
    "ggml.token_type": "token_type",
    "ggml.merges": "merges",
    "ggml.add_space_prefix": "add_prefix_space",
}
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def write(gguf: GgufFile, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template where the file has one) into `folder`."""
    import transformers

    name, kind = architecture(gguf)
    try:
        from transformers.integrations.gguf import convert_gguf_tokenizer
    except ImportError:  # its place in transformers 5.17, whose converter splits Gemma's texts otherwise
        from transformers.integrations.ggml import convert_gguf_tokenizer

        if name == "gemma3":
            raise InputError(
                f"{gguf.path}: transformers {transformers.__version__} cannot convert its tokenizer.",
                fix='pip install --upgrade "transformers>=5.18", which can.',
            ) from None
    parts, settings = _parts(gguf), _settings(gguf)
    try:
        backend, _ = convert_gguf_tokenizer(name, parts)
        tokenizer = getattr(transformers, kind.tokenizer)(tokenizer_object=backend, **settings)
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise InputError(f"{gguf.path}: its vocabulary cannot be made into a tokenizer: {error!r}") from error
    tokenizer.save_pretrained(folder)


def _parts(gguf: GgufFile) -> dict[str, Any]:
    """Return the vocabulary under the names that transformers' converter knows."""
    found = {
        ours: gguf.metadata[f"tokenizer.{key}"] for key, ours in PARTS.items() if f"tokenizer.{key}" in gguf.metadata
    }
    parts = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in found.items()}
    for key in ("scores", "token_type"):
        if key in parts and len(parts[key]) != len(parts["tokens"]):
            raise InputError(f"{gguf.path}: {len(parts['tokens'])} tokens, but {len(parts[key])} values of {key}.")
    if gguf.metadata["general.architecture"] == "gemma3" and "merges" not in parts:
        parts["merges"] = gemma_merges(parts["tokens"])
    return parts


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


def _settings(gguf: GgufFile) -> dict[str, Any]:
    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    ids = {name: token_id(gguf, key) for name, key in SPECIAL.items()}
    settings: dict[str, Any] = {name: None if index is None else tokens[index] for name, index in ids.items()}
    # Where the file does not say, llama.cpp puts BOS before a sentencepiece vocabulary and nothing before others.
    sentencepiece = gguf.metadata.get("tokenizer.ggml.model") == "llama"
    settings["add_bos_token"] = bool(gguf.metadata.get("tokenizer.ggml.add_bos_token", sentencepiece))
    settings["add_eos_token"] = bool(gguf.metadata.get("tokenizer.ggml.add_eos_token", False))
    if template := gguf.metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return settings
