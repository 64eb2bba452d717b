"""The table of PEFT methods: a row for each that holds `tests/method_battery.py`."""

from __future__ import annotations

from typing import Any

from tunelift.adapters.defaults import at_known_layers, scaled_layers
from tunelift.adapters.methods import METHODS, Method

METHODS.add(
    "lora",
    Method(
        "LORA",
        title="LoRA",
        defaults={"target_modules": "all-linear"},
        begins_at_random=("lora_A", "lora_embedding_B"),  # the other side begins at zero
    ),
)
# docs/methods.md has the rates that were tried.
METHODS.add("ia3", Method("IA3", title="IA3", defaults=scaled_layers, learning_rate=1e-2))


def _add(name: str, peft_type: str, title: str, rate: float, **facts: Any) -> None:
    """Add a row of a method that is put where peft knows to, or else at all linear layers."""
    METHODS.add(name, Method(peft_type, title, at_known_layers(peft_type), rate, **facts))


_add("vera", "VERA", "VeRA", 1e-3)
