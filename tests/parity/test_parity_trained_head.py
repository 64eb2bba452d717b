"""The loss behind a head that is trained is torch's own, gradients included, and never holds logits of a vocabulary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_models
from tunelift.fast import trained_head
from tunelift.fast.head import ROWS_AT_ONCE, TILE, Head, capped
from tunelift.fast.target_only import TargetOnly

ROWS, WIDTH, VOCABULARY = ROWS_AT_ONCE + 300, 8, 2 * TILE + 700


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that anything computes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


def parts(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(ROWS, WIDTH, dtype=dtype), torch.randn(VOCABULARY, WIDTH, dtype=dtype)
    return hidden, weight, torch.randn(VOCABULARY, dtype=dtype), torch.randint(0, VOCABULARY, (ROWS,))


def plain(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, head.weight, head.bias)  # type: ignore[arg-type]
    return F.cross_entropy(capped(logits * head.scale, head.softcap), targets, reduction="none")


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 3.0)])
def test_losses_and_gradients_are_those_of_torch(has_bias: bool, scale: float, softcap: float | None) -> None:
    hidden, weight, bias, targets = parts()
    some = [hidden, weight, *([bias] if has_bias else [])]
    found = []
    for way in (trained_head.losses, plain):
        moved = [tensor.clone().requires_grad_() for tensor in some]
        head = Head(moved[1], moved[2] if has_bias else None, scale, softcap)
        losses = way(head, moved[0], targets)
        (losses * torch.linspace(0.1, 1, ROWS)).sum().backward()
        found.append([losses.detach(), *(tensor.grad for tensor in moved)])
    for one, other in zip(*found, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def test_no_tensor_is_as_large_as_the_logits() -> None:
    hidden, weight, _, targets = parts()
    largest = []
    for way in (trained_head.losses, plain):
        states, matrix = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with Largest() as seen:
            way(Head(matrix), states, targets).sum().backward()
        largest.append(seen.numbers)
    assert largest == [ROWS_AT_ONCE * TILE, ROWS * VOCABULARY]


@pytest.mark.parametrize("kind", ["gemma3_text", "llama", "cohere"])  # tied and capped, not tied, scaled
def test_a_model_that_is_trained_whole_has_stocks_gradients(kind: str) -> None:
    model = tiny_models.causal(kind).train()
    ids = torch.arange(5, 25).reshape(2, 10)
    labels = ids.clone()
    labels[:, :4] = -100
    found = []
    for ours in (True, False):
        model.zero_grad()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        loss = TargetOnly(model).loss_sum(inputs, labels) / 12 if ours else model(**inputs, labels=labels).loss
        loss.backward()
        found.append({"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and any("embed" in name for name in found[0])
    for name, one in found[0].items():
        assert float((one - found[1][name]).abs().max()) <= 1e-5 * max(1.0, float(found[1][name].abs().max())), name
