"""The table of PEFT methods: the name in the configuration, and peft's own config class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunelift.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Method:
    """One PEFT method. `defaults` are ours where they differ from peft's; the user's keys come first."""

    peft_class: str
    defaults: dict[str, Any]


METHODS: Registry[Method] = Registry("PEFT method")
METHODS.add("lora", Method("LoraConfig", {"target_modules": "all-linear"}))
