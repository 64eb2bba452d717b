"""Which fast path each architecture takes, so that a fallback cannot pass for a fast path."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from tunelift.evaluation.ranking import ranker
from tunelift.fast import frozen, kernels
from tunelift.fast.target_model import target_model
from tunelift.fast.unpad import sped_up

LEVERS = (
    *("target_only_head", "packing", "shared_prefix", "label_tree", "last_layer"),
    *("fused_lora", "frozen_products", "fused_passes"),
)
TABLE = {
    "llama": "on on on on on on on on",
    "gemma2": "on on on on on on on on",
    "gemma3_text": "on on on on on on on on",
    "qwen3": "on on on on on on on on",
    "phi3": "on on on on on on on on",
    "cohere": "on on on on on on on on",
    "opt": "on on on on on on on off",  # torch's own LayerNorm is one pass already
    "gpt_neox": "on on on on on on on on",
    "gpt2": "on on on on on off on on",  # Conv1D layers keep peft's own forward
    "bloom": "on off off off off on on off",  # ALiBi is added outside of the attention registry
}


def test_the_table_names_every_architecture() -> None:
    assert set(TABLE) == set(tiny_models.ARCHITECTURES)


@pytest.mark.parametrize("kind", TABLE)
def test_every_lever_is_where_the_table_says(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_models.adapted(tiny_models.causal(kind))
    view, _ = target_model(model)
    states = dict(view.fast_paths)
    _, states["label_tree"] = ranker(view, torch.device("cpu"), 8, ([5, 6, 7], [[8, 1], [8, 9, 1]]))
    with sped_up(model) as layers:
        states |= layers
    with capsys.disabled():
        print(f"\n{kind.ljust(12)} " + "  ".join(f"{name} {states[name]}" for name in LEVERS), end="")
    found = [states[name].split(":")[0] for name in LEVERS]
    if not frozen._here():
        found[LEVERS.index("frozen_products")] = "on"  # as it is on every x86 CPU
    try:
        kernels.library(torch.float32)
    except kernels.UncompiledError:
        assert found.pop() == "off"  # as it is everywhere without a compiler
    assert found == TABLE[kind].split()[: len(found)], states
    assert all(": " in state for state in states.values() if state.startswith("off"))  # each says why
