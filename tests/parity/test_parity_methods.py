"""Every method takes the fast ways that are right for it, with the loss and the gradient of the plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny_models
from tunelift.adapters.build import attach, peft_config
from tunelift.adapters.methods import METHODS
from tunelift.fast.target_model import target_model
from tunelift.fast.targets import IGNORED
from tunelift.fast.undo import acting

AROUND = {"prompt-tuning", "p-tuning", "prefix-tuning", "cartridge", "adaption-prompt"}
"""Methods that put tokens before rows, or attention beside the model's own."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TUNELIFT_CACHE", str(tmp_path))  # trials of other tests are not asked
    yield


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, trained, strict=True)])


@pytest.mark.parametrize("name", [n for n in METHODS if not METHODS.get(n).needs_head])
def test_a_method_is_as_fast_as_is_right(name: str) -> None:
    base, method = tiny_models.causal("llama"), METHODS.get(name)
    keys = {"method": name, **method.tried_with}
    model = base if method.whole else attach(base, peft_config(keys, "CAUSAL_LM", base, 40, 10), 0).eval()
    rows = [list(range(5, 25)), list(range(30, 37))]
    ids = torch.tensor([rows[0], rows[1] + [0] * 13])
    mask = (torch.arange(20) < torch.tensor([[20], [7]])).long()
    labels = torch.where((mask == 1) & (torch.arange(20) >= 4), ids, IGNORED)
    inputs = {"input_ids": ids, "attention_mask": mask}
    with acting(model):
        view, head = target_model(model, rows)
        assert head.startswith("off" if name in AROUND else "on")
        assert name in AROUND or view.fast_paths["packing"] == "on"
        plain = torch.tensor(0.0)
        for row in (0, 1):  # each by itself
            own = ids[row : row + 1, : int(mask[row].sum())]
            logits = model(input_ids=own, attention_mask=torch.ones_like(own)).logits[:, -own.shape[1] :]
            wanted = labels[row, 1 : own.shape[1]]
            plain = plain + F.cross_entropy(logits[0, :-1], wanted, ignore_index=IGNORED, reduction="sum")
        fast = view.loss_sum(inputs, labels)
        assert torch.allclose(fast, plain, rtol=1e-5)
        assert torch.allclose(gradients(model, fast), gradients(model, plain), rtol=1e-3, atol=1e-5)
