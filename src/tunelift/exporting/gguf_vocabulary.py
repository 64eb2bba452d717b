"""A stock tokenizer as a GGUF file has it: the tokens, how text is cut, what begins and ends it, the chat template."""

from __future__ import annotations

import json
from typing import Any

from tunelift.core.errors import InputError
from tunelift.models.architectures import CONTROL, SPECIAL, UNKNOWN, USER_DEFINED
from tunelift.models.word_splits import SPLITS, WHOLE_FIRST

NORMAL, UNUSED, BYTE = 1, 5, 6
BLANK = "\u2581"
FIRST = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder")
"""Names of ways to cut text that every llama.cpp of today knows; others mean the same."""

OTHERS = ("eot_token_id", "eom_token_id")
"""Where the tokens that end an answer stand, behind the end of the text."""


def vocabulary(tokenizer: Any, config: Any, ends: list[int]) -> dict[str, Any]:
    """Return the metadata of a tokenizer for a model with so many rows of embeddings.

    Raises InputError where llama.cpp has nothing that cuts text in this way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("has no tokenizer.json")
    described = json.loads(backend.to_str())
    tokens, kinds = _tokens(tokenizer, config.vocab_size, described)
    found: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    found |= _byte_level(described) if _is_byte_level(described) else _sentencepiece(described, tokens, kinds)
    for name, key in SPECIAL.items():
        index = getattr(tokenizer, f"{name}_id", None)
        if index is not None:
            found[f"tokenizer.ggml.{key}"] = index
    others = [index for index in ends if index != tokenizer.eos_token_id]
    found |= {f"tokenizer.ggml.{key}": index for key, index in zip(OTHERS, others, strict=False)}
    found |= _around(tokenizer)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        raise _refused("has several chat templates, and a GGUF file one")
    return found | ({"tokenizer.chat_template": template} if template else {})


def _tokens(tokenizer: Any, rows: int, described: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Return text and kind of each row of the embeddings."""
    own = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(own) >= rows:
        raise _refused(f"has the token {max(own)}, and the model has rows for {rows}")
    added = {one["id"]: one for one in described["added_tokens"]}
    tokens, kinds = [], []
    for index in range(rows):
        tokens.append(own.get(index, f"[PAD{index}]"))
        if index not in own:
            kinds.append(UNUSED)
        elif index in added:
            kinds.append(CONTROL if added[index]["special"] else USER_DEFINED)
        else:
            kinds.append(NORMAL)
    unknown = described["model"].get("unk_token")
    if unknown in tokens:
        kinds[tokens.index(unknown)] = UNKNOWN
    return tokens, kinds


def _parts(step: Any, name: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or the one step, or none."""
    if step is None:
        return []
    return list(step[name]) if step["type"] == "Sequence" else [step]


def _is_byte_level(described: dict[str, Any]) -> bool:
    steps = _parts(described["pre_tokenizer"], "pretokenizers")
    return described["model"]["type"] == "BPE" and any(step["type"] == "ByteLevel" for step in steps)


def _byte_level(described: dict[str, Any]) -> dict[str, Any]:
    model, cuts = described["model"], []
    for step in _parts(described["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Digits" and step["individual_digits"]:
            cuts.append(r"\p{N}")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(step["pattern"].get("Regex"))
        elif step["type"] == "ByteLevel" and not step["add_prefix_space"]:
            cuts += SPLITS["gpt-2"] if step["use_regex"] else ()
        else:
            raise _refused(f"cuts text by {step['type']} in a way that llama.cpp has no name for")
    strange = [one["type"] for one in _parts(described["normalizer"], "normalizers") if one["type"] != "NFC"]
    if strange:  # NFC changes nothing of text that is composed, as nearly all is; the proof looks at the items
        raise _refused(f"rewrites text by {strange[0]}, which llama.cpp does not")
    whole = bool(model.get("ignore_merges"))
    names = [name for name in FIRST if SPLITS[name] == tuple(cuts) and (name in WHOLE_FIRST) == whole]
    if not names:
        raise _refused("cuts text by expressions that llama.cpp has no name for")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": names[0], "tokenizer.ggml.merges": merges}


def _sentencepiece(described: dict[str, Any], tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """Give each token the place of the first merge that makes it: llama.cpp joins what has the highest score."""
    model = described["model"]
    steps = _parts(described["normalizer"], "normalizers") + _parts(described["pre_tokenizer"], "pretokenizers")
    names = {step["type"] for step in steps}
    if model["type"] != "BPE" or not model.get("byte_fallback") or names - {"Prepend", "Replace", "Split", "Metaspace"}:
        raise _refused(f"is of the kind {model['type']}, cut by {', '.join(sorted(names)) or 'nothing'}")
    places: dict[str, int] = {}
    for place, merge in enumerate(model["merges"]):
        places.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ")), place)
    last = len(model["merges"])
    scores = [-float(places.get(token, last)) for token in tokens]
    for index, token in enumerate(tokens):
        if kinds[index] == NORMAL and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kinds[index] = BYTE
        if kinds[index] == USER_DEFINED:
            tokens[index] = token.replace(BLANK, " ")
    before = any(step["type"] == "Prepend" or step.get("prepend_scheme") in ("first", "always") for step in steps)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": before,
    }


def _around(tokenizer: Any) -> dict[str, Any]:
    """Say whether texts begin with BOS and end with EOS, as the tokenizer does it."""
    ids, plain = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    begin = ids[: len(ids) - len(plain)] if ids[-len(plain) :] == plain else ids[:1]
    end = ids[len(begin) + len(plain) :]
    if [*begin, *plain, *end] != ids or begin not in ([], [tokenizer.bos_token_id]) or end not in (
        [], [tokenizer.eos_token_id],
    ):  # fmt: skip
        raise _refused(f"puts other tokens around a text than BOS and EOS ({ids})")
    return {"tokenizer.ggml.add_bos_token": bool(begin), "tokenizer.ggml.add_eos_token": bool(end)}


def _refused(why: str) -> InputError:
    return InputError(
        f"The tokenizer {why}: it is not written as GGUF.",
        fix="Export to merged, and give that folder to llama.cpp's own converter, which knows more of them.",
    )
