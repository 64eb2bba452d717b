"""Folders that torchtune wrote in peft's layout, and what it turned there that should have stayed.

torchtune turns the rows of B of queries and keys as Llama's weights need it. Its Qwen2 has transformers' own order, so
that on one the adapter acts otherwise than it was trained: 0.6.1 off by as much as it acts, and exactly right once they
are turned back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TURNED = ("q_proj", "k_proj")
OWN = "adapter_model.pt"
"""torchtune's own file, which lies beside that for peft."""


def of_torchtune(folder: Path, config: Mapping[str, Any]) -> bool:
    """Tell whether torchtune wrote a folder: its config has no more than the few settings that it knows."""
    return (folder / OWN).is_file() and "peft_version" not in config and "task_type" not in config


def is_turned(folder: Path, config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether the rows of queries and keys are in another order than the base's."""
    targets = config.get("target_modules")
    on_them = isinstance(targets, list) and any(name in TURNED for name in targets)
    return model_type == "qwen2" and on_them and of_torchtune(folder, config)
