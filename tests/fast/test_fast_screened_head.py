"""The likeliest token of a head that is screened in eight bits is that of the plain product."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tunelift.fast import int8, kernels, screened_head
from tunelift.fast.screened_head import ScreenedHead

pytestmark = pytest.mark.skipif(kernels.of(torch.zeros(1, 1)) is None, reason="needs a C compiler")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def screened(weight: Tensor, x: Tensor) -> ScreenedHead:
    return ScreenedHead(weight, x[:1].nan_to_num() + 0.1)


def logits(head: ScreenedHead, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return head.logits(x, weight, bias, lambda some: F.linear(some, weight, bias))


def holds(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """See that each row's choice is the likeliest by its own logits, which are right there; return the logits."""
    found = logits(screened(weight, x), x, weight, bias)
    right = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    chosen = found.argmax(dim=1)
    own = right.gather(1, chosen[:, None])[:, 0]
    rounding = 1e-6 * (x.norm(dim=1) * weight.norm(dim=1).max() + (0 if bias is None else bias.abs().max())) + 1e-30
    assert bool((own >= right.amax(dim=1) - rounding).all())
    assert bool(((found.gather(1, chosen[:, None])[:, 0] - own).abs() <= rounding).all())
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**30), st.sampled_from([0, 1, 1e4]))
def test_the_choice_is_the_plain_one(rows: int, tokens: int, size: int, seed: int, outlier: float) -> None:
    weight, x = drawn(tokens, size, seed=seed), drawn(rows, size, seed=seed + 1)
    weight[seed % tokens] *= outlier
    x[:, seed % size] *= outlier
    holds(weight, x)
    holds(weight, x, drawn(tokens, seed=seed + 2))


def test_tokens_that_eight_bits_cannot_tell_apart() -> None:
    """Rows of the weight that differ by less than a step of eight bits: without their own logits it is wrong."""
    x = drawn(64, 96)
    weight = drawn(1, 96).repeat(500, 1) + 1e-3 * drawn(500, 96, seed=1)
    found = holds(weight, x)
    head = screened(weight, x)
    eight = int8.product(x, head.weight, head.by)
    assert bool((found.argmax(dim=1) != eight.argmax(dim=1)).any())


def test_more_candidates_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screened_head, "MOST", 8)
    weight, x = drawn(1, 64).repeat(300, 1) + 1e-4 * drawn(300, 64, seed=1), drawn(3, 64)
    assert torch.equal(logits(screened(weight, x), x, weight), F.linear(x, weight))


def test_what_rounding_left_of_the_hidden_state_is_looked_at_before_all_is_computed() -> None:
    """A column that was not large before dwarfs the others, and leaves eight bits nothing of them."""
    weight, x = drawn(5000, 128), drawn(2, 128)
    weight[:, 0] = 0.0
    head = ScreenedHead(weight, x)
    x[1, 0] = 1e4
    whole = list[Tensor]()

    def plain(some: Tensor) -> Tensor:
        whole.append(some)
        return F.linear(some, weight)

    found = head.logits(x, weight, None, plain)
    assert torch.equal(found.argmax(dim=1), F.linear(x, weight).argmax(dim=1))
    assert not whole


def test_no_numbers_give_none() -> None:
    weight, x = drawn(50, 40), drawn(3, 40)
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    found = logits(screened(weight, x), x, weight)
    assert bool(found[0].isfinite().all())
    assert torch.equal(found[1:].isfinite(), F.linear(x[1:], weight).isfinite())


def test_few_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many tokens a few are candidates: what is gained."""
    counts, plain = list[int](), F.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        counts.append(len(weight))
        return plain(x, weight, bias)

    monkeypatch.setattr(F, "linear", counted)
    weight, x = drawn(20_000, 640), drawn(4, 640)
    logits(screened(weight, x), x, weight)
    assert len(counts) == 4
    assert max(counts) < 2_000


def test_a_layer_is_plain_unless_asked() -> None:
    layer = nn.Linear(48, 200, bias=False).requires_grad_(False)
    x = drawn(2, 48)
    head = screened(layer.weight, x)
    with screened_head.only_the_likeliest(head):
        assert head.on
    assert not head.on
    with screened_head.only_the_likeliest(None):
        assert torch.equal(layer(x), F.linear(x, layer.weight))
