"""How a sentence model makes one vector of a text, as the files of sentence-transformers beside its weights say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tunelift.core import files, text_files
from tunelift.core.errors import InputError, listed
from tunelift.model_facts.anatomy import base_of
from tunelift.untrusted.files import inside, read_object, read_text

if TYPE_CHECKING:
    from torch import Tensor

MODULES, SETTINGS, ENCODER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
LIBRARY = "sentence_transformers."
KINDS = ("Transformer", "Pooling", "Normalize")
"""Modules that are known, in this order; the last two may be missing."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""As sentence-transformers wrote it before version 6; of several, the vectors stand behind each other in this order."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How token states become one vector: by which means (one behind another), and whether its length is made 1.

    A text is put behind `prompt`, lowered if `lower`, and cut to `max_length` tokens. `files` are what says so, by path
    in the model's folder; without any it is the mean, as sentence-transformers takes it.
    """

    modes: tuple[str, ...] = ("mean",)
    normalized: bool = False
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""
    files: Mapping[str, Any] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Return a text as the tokenizer gets it."""
        whole = self.prompt + text
        return whole.lower() if self.lower else whole

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return vectors (B, D * modes) in float32 or wider of states (B, T, D), padded on the right."""
        import torch

        wide = states if states.dtype == torch.float64 else states.float()
        found = torch.cat([_pooled(mode, wide, mask) for mode in self.modes], dim=1)
        return torch.nn.functional.normalize(found, dim=1) if self.normalized else found

    def cut_to(self, length: int) -> Pooling:
        """Return the same for texts of at most so many tokens, by which longer ones are cut."""
        told = {**(self.files or _DEFAULT_FILES)}
        told[ENCODER] = {**told.get(ENCODER, {"do_lower_case": False}), "max_seq_length": length}
        return replace(self, max_length=length, files=told)

    def save(self, folder: Path, config: Any) -> None:
        """Write the files into the folder of an adapter or a model, so that sentence-transformers reads it whole.

        Where they do not say how wide states are, `config`, the model's, does: it reads none without.
        """
        own = self.files or _DEFAULT_FILES
        if own.get(POOLED) == _DEFAULT_FILES[POOLED]:
            own = {**own, POOLED: {"word_embedding_dimension": config.get_text_config().hidden_size, **own[POOLED]}}
        for name, content in own.items():
            files.write_text(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


POOLED = "1_Pooling/config.json"
_DEFAULT_FILES: dict[str, Any] = {
    MODULES: [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    POOLED: {"pooling_mode_mean_tokens": True},
}

_known: WeakKeyDictionary[Any, Pooling] = WeakKeyDictionary()
"""By the model and by its tokenizer."""


def remember(folder: Path, *things: Any) -> None:
    """Know of a model and its tokenizer what their folder says; raise InputError for what is not known here."""
    found = read(folder)
    for thing in things:
        _known[thing] = found


def pooling_of(thing: Any) -> Pooling:
    """Return how a model, maybe under an adapter, or its tokenizer makes vectors.

    What was not remembered is looked up in the folder that it was loaded from, where there is one.
    """
    base = base_of(thing)
    if base not in _known:
        name = str(getattr(base, "name_or_path", "") or "")
        _known[base] = read(Path(name)) if name and (Path(name) / MODULES).is_file() else Pooling()
    return _known[base]


def read(folder: Path) -> Pooling:
    """Return what a folder says; raise InputError for modules, ways and settings that are not known here."""
    if not (folder / MODULES).is_file():
        return Pooling()
    modules = text_files.json_value(read_text(folder / MODULES), str(folder / MODULES))
    paths = _paths(modules, folder)
    kept: dict[str, Any] = {MODULES: modules}
    for name in (ENCODER, SETTINGS):
        if (folder / name).is_file():
            kept[name] = read_object(folder / name)
    modes: tuple[str, ...] = ("mean",)
    if "Pooling" in paths:
        name = f"{paths['Pooling']}/config.json"
        kept[name] = read_object(inside(folder, name))
        modes = _modes(kept[name], folder / name)
    encoder, settings = kept.get(ENCODER, {}), kept.get(SETTINGS, {})
    _check_settings(encoder, settings, "Normalize" in paths, folder)
    limit, prompt = encoder.get("max_seq_length"), settings.get("default_prompt_name")
    return Pooling(
        modes,
        "Normalize" in paths,
        limit if isinstance(limit, int) and limit > 1 else None,
        encoder.get("do_lower_case") is True,
        str((settings.get("prompts") or {}).get(prompt, "")) if prompt else "",
        kept,
    )


def _paths(modules: Any, folder: Path) -> dict[str, str]:
    """Return the path of each module by its kind; raise InputError for others than those known, or in another order."""
    sound = isinstance(modules, list) and all(isinstance(one, dict) for one in modules)
    named = [(str(one.get("type")), str(one.get("path", ""))) for one in modules] if sound else []
    kinds = [kind.rpartition(".")[2] if kind.startswith(LIBRARY) else kind for kind, _ in named]
    if unknown := [kind for kind in kinds if kind not in KINDS] or (not named and ["nothing"]):
        raise InputError(
            f"{folder / MODULES} names {listed(unknown)}, and what such a module computes is not known here.",
            fix=f"Models of {listed(KINDS)} are tuned.",
        )
    if kinds != [kind for kind in KINDS if kind in kinds] or "Transformer" not in kinds or named[0][1]:
        raise InputError(
            f"{folder / MODULES} has {listed(kinds)}, the first in {named[0][1] or 'the folder itself'!r}.",
            fix=f"{listed(KINDS)} are known in this order, the first of them in the folder itself.",
        )
    return {kind: path for kind, (_, path) in zip(kinds, named, strict=True)}


def _modes(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    own = config.get("pooling_mode")
    if own is None:
        named = [mode for flag, mode in FLAGS.items() if config.get(flag) is True] or ["mean"]
    else:
        named = [own] if isinstance(own, str) else list(own) if isinstance(own, list) else [str(own)]
    if unknown := [str(mode) for mode in named if mode not in FLAGS.values()]:
        raise InputError(f"{path} pools by {listed(unknown)}.", fix=f"Known are {listed(FLAGS.values(), 9)}.")
    if config.get("include_prompt", True) is not True:
        raise InputError(f"{path} leaves prompts out of the pooling.", fix="Such a model is not tuned here.")
    return tuple(named)


def _check_settings(encoder: Mapping[str, Any], settings: Mapping[str, Any], normalized: bool, folder: Path) -> None:
    """Raise InputError for settings by which a vector, or how near two are, would be another one."""
    task, similarity = encoder.get("transformer_task"), settings.get("similarity_fn_name")
    if task not in (None, "feature-extraction"):
        raise InputError(f"{folder / ENCODER} is for {task!r:.40}.", fix="Models of feature-extraction are tuned.")
    if similarity not in (None, "cosine") and not (normalized and similarity == "dot"):
        raise InputError(
            f"{folder / SETTINGS} says that vectors are compared by {similarity!r:.40}.",
            fix="Here they are compared by their cosine.",
        )


def _pooled(mode: str, states: Tensor, mask: Tensor) -> Tensor:
    """Return (B, D) by one way, as sentence-transformers names it."""
    import torch

    lengths, there = mask.sum(dim=1), mask[..., None].to(states.dtype)
    if mode == "cls":
        return states[:, 0]
    if mode == "lasttoken":
        return states[torch.arange(len(states), device=states.device), lengths - 1]
    if mode == "max":
        return states.masked_fill(there == 0, float("-inf")).amax(dim=1)
    if mode == "weightedmean":
        there = there * torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype)[:, None]
    total, count = (states * there).sum(dim=1), there.sum(dim=1)
    return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)
