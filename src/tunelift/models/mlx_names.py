"""Names of layers in mlx-lm and in transformers, one table both ways."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tunelift.core.errors import InputError, listed

DENSE, ATTENTION = r"layers\.\d+\.(self_attn|mlp)\.\w+", r"layers\.\d+\.self_attn\.\w+"
"""Layers below the body that are the same in both; of experts, the attention."""

ENDS = r"^model\.({}|embed_tokens)$|^lm_head$"


@dataclass(frozen=True)
class Names:
    """Which layers of a model type are the same in both, a pattern of names in mlx-lm, and what the body is called."""

    layers: str = ENDS.format(DENSE)
    ours: str = "model."
    theirs: str = "model."


MLX_NAMES = {
    **{kind: Names() for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")},
    **{kind: Names(ENDS.format(ATTENTION)) for kind in ("mixtral", "qwen3_moe")},
    "gpt2": Names(r"^model\.(h\.\d+\.(attn|mlp)\.\w+|wte)$", ours="transformer."),
}
"""By transformers' model type, those that were run in mlx-lm 0.32.2."""


def names_of(model_type: str) -> Names:
    """Return the names of a model type; raise InputError for one that was never run in mlx-lm."""
    if model_type not in MLX_NAMES:
        raise InputError(
            f"Adapters on models of the type {model_type} are not exchanged with mlx-lm here.",
            fix=f"Exchanged are those on {listed(MLX_NAMES)}.",
        )
    return MLX_NAMES[model_type]


def to_mlx(module: str, model_type: str) -> str:
    """Return mlx-lm's name of a layer by its name in transformers; raise InputError where it has none."""
    names = names_of(model_type)
    found = names.theirs + module.removeprefix(names.ours) if module.startswith(names.ours) else module
    return _known(found, names, module, "mlx-lm")


def from_mlx(module: str, model_type: str) -> str:
    """Return the name in transformers of a layer of mlx-lm; raise InputError where it has none."""
    names = names_of(model_type)
    _known(module, names, module, "transformers")
    return names.ours + module.removeprefix(names.theirs) if module.startswith(names.theirs) else module


def _known(name: str, names: Names, asked: str, where: str) -> str:
    if not re.match(names.layers, name):
        raise InputError(
            f"{asked} has no layer in {where} that an adapter is known to be the same on.",
            fix="Known are linear layers of attention and feed-forward, embeddings and head; of experts the attention.",
        )
    return name
