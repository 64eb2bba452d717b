"""What of a model decides how much memory and time it takes, from the shapes of its weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunelift.fast.block_kinds import KINDS
from tunelift.model_facts.anatomy import vocabulary

NF4_BYTES = 0.5 + 4 / 64
"""Of a number in NF4: four bits, and a scale in float32 for each 64 (Dettmers et al. 2023, arXiv 2305.14314)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of numbers. `linear` are those of the linear layers before the head, which may be held in few bits.

    `kept` is what a token leaves behind in all layers for the way back: the outputs of their linear layers, and the two
    inputs of each layer's norms. `widest` is the most that one layer has of it. `keys` are a token's keys and values.
    `tiled` says that the loss needs no logits of the whole vocabulary at once.
    """

    numbers: int
    linear: int
    kept: int
    widest: int
    layers: int
    hidden: int
    vocabulary: int
    keys: int
    head: int
    outputs: int
    tiled: bool


def sizes_of(model: Any, *, tiled: bool) -> Sizes:
    """Return the sizes of a model, whose weights may have shapes only; `tiled` is as there."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    config = model.config.get_text_config()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = [m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]
    outputs = [m.out_features if isinstance(m, nn.Linear) else m.nf for m in linear]
    layers = max(1, int(getattr(config, "num_hidden_layers", None) or 1))
    hidden = int(getattr(config, "hidden_size", None) or max(outputs, default=1))
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    of_head = int(getattr(config, "head_dim", None) or hidden // heads)
    pairs = int(getattr(config, "num_key_value_heads", None) or heads)
    kept = sum(outputs) + 2 * layers * hidden
    of_vocabulary = vocabulary(model) or 0
    return Sizes(
        numbers=sum(p.numel() for p in model.parameters()),
        linear=sum(m.weight.numel() for m in linear),
        kept=kept,
        widest=kept // layers,
        layers=layers,
        hidden=hidden,
        vocabulary=of_vocabulary,
        keys=2 * layers * pairs * of_head,
        head=0 if head is None else of_vocabulary * hidden,
        outputs=of_vocabulary if head is not None else 0,
        tiled=tiled,
    )


def bytes_of_weights(sizes: Sizes, itemsize: int, quantization: str) -> int:
    """Return the bytes of a model's weights: numbers of `itemsize` bytes, linear layers as they are held.

    Those of a GGUF file are of several kinds, which its folder says: the caller adds up files then.
    """
    rest = (sizes.numbers - sizes.linear) * itemsize
    if quantization in ("int8", "int4"):
        kind = KINDS[quantization]
        return rest + kind.row_bytes(sizes.linear)
    return rest + int(sizes.linear * (NF4_BYTES if quantization == "nf4" else itemsize))
