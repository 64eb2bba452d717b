"""A LoRA as GGUF: the scale is in B, so that rsLoRA and alpha patterns act as they were trained.

llama.cpp multiplies by `adapter.lora.alpha / rank`, one alpha for all layers; where that is 0, by nothing. What its
loader leaves out in silence (trained norms), or cannot hold, is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunelift.exporting.gguf_file import write
from tunelift.exporting.gguf_weights import Layout
from tunelift.exporting.lora_factors import check_plain, factors
from tunelift.model_facts.anatomy import base_of
from tunelift.models.architectures import Floats

MERGED = "Export it with --to gguf: merged into the base, it is as it was trained."


def check_lora(adapted: Any) -> None:
    """Raise InputError, with every reason, for an adapter that llama.cpp has no place for."""
    check_plain(adapted, "llama.cpp", MERGED)
    Layout.of(base_of(adapted).config)


def write_lora(file: Path, adapted: Any, name: str, kind: str) -> int:
    """Write the active adapter; return how many layers it changes. `kind` is the type of its matrices."""
    layout = Layout.of(base_of(adapted).config)
    values = {
        "general.architecture": layout.architecture,
        "general.type": "adapter",
        "general.name": name,
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
    }
    write(file, values, lambda: _tensors(adapted, layout), kind)
    return sum(1 for _ in factors(adapted, MERGED))


def _tensors(adapted: Any, layout: Layout) -> Iterator[tuple[str, Floats]]:
    for module, first, second in factors(adapted, MERGED):
        name = f"{layout.name(module)}.weight"
        yield f"{name}.lora_a", first
        yield f"{name}.lora_b", layout.turned(name, second) if layout.turn.of_rows else second
