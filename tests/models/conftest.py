"""Tiny models in temporary folders, and a cache of their own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ["<unk>", "<s>", "</s>", "good", "bad", "film", "the", "a"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keep every test out of the user's cache, but for those that convert the real model once."""
    if "e2e" not in request.keywords:
        monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path / "tunelift-cache"))


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def _tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            pad_token_id=None,
        )
    )


def _tiny_bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """Save a tiny random "llama" or "bert" with its tokenizer and return the folder."""
    import torch

    def save(kind: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / kind
        {"llama": _tiny_llama, "bert": _tiny_bert}[kind]().save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return save
