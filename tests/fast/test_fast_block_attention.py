"""Attention in C over blocks is the plain formula, row by row, forward and backward, with and without dropout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fast_kernels import compiled
from torch import Tensor

from tunelift.fast import attention, block_attention, kernels
from tunelift.fast.attention import Rule
from tunelift.fast.packed_rows import PackedRow, Past, pack

BEGINNING = list(range(37))
SCALE = 0.1


def causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def window(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & (key > query - 7)


def everything(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key >= 0) | (query >= 0)


def numbers(packed_row: PackedRow, heads: int, groups: int, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return query, key and value (1, heads, N, size), as models have them: token by token in memory."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, len(packed_row.ids), n, size) for n in (heads, groups, groups)]
    return [torch.randn(s, generator=generator).to(dtype).transpose(1, 2).requires_grad_() for s in shapes]


def attended(leaves: list[Tensor], rule: Rule, dropout: float = 0.0) -> Tensor:
    options = {"dropout": dropout, "scaling": SCALE}
    assert block_attention.suits(*leaves, rule.most, options)
    found: Tensor = attention._over_blocks(SimpleNamespace(layer_idx=0), *leaves, rule, options)
    return found


def plain(leaves: list[Tensor], rule: Rule, factors: Tensor | None = None) -> Tensor:
    """Return the formula in fp64 over the whole packed row; factors (H, N, N) are dropout's."""
    packed_row, share = rule.packed_row, leaves[0].shape[1] // leaves[1].shape[1]
    query, key, value = (x[0].double() for x in leaves)
    key, value = (x.repeat_interleave(share, dim=0) for x in (key, value))
    positions = torch.tensor(packed_row.positions)
    seen = torch.zeros(len(positions), len(positions), dtype=torch.bool)
    for number, block in enumerate(packed_row.blocks):
        for other in (*block.before, number):
            there = slice(packed_row.blocks[other].start, packed_row.blocks[other].stop)
            seen[block.start : block.stop, there] = True
    zero = torch.zeros((), dtype=torch.long)
    seen &= rule.allowed(zero, zero, positions[:, None], positions[None])
    shares = torch.softmax((query @ key.transpose(1, 2) * SCALE).masked_fill(~seen, -torch.inf), dim=-1)
    return ((shares if factors is None else shares * factors) @ value).transpose(0, 1)[None]


def assert_close(ours: Tensor, twin: Tensor, leaves: list[Tensor]) -> None:
    """Compare results and the gradients of query, key and value, but for roundings to their dtype."""
    above = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(ours.dtype)
    found = [ours, *torch.autograd.grad(ours, leaves, above)]
    exact = [twin, *torch.autograd.grad(twin, leaves, above.double())]
    allowed = 1e-6 if ours.dtype == torch.float32 else 4e-3
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == ours.dtype
        assert float((one.detach().double() - other).norm()) < allowed * (1 + float(other.detach().norm()))


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", [causal, window, everything])
@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 2, 16), (4, 1, 256), (6, 6, 32), (3, 3, 80)])
def test_it_is_the_plain_formula(
    heads: int, groups: int, size: int, rule: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    rows = [[*BEGINNING, 1, 2, 3], [*BEGINNING, 4, 5], [7] * 170, [8] * 33, [9]]
    packed_row = pack(rows, [37, 37, 1, 1, 0], share=rule is not everything)
    leaves = numbers(packed_row, heads, groups, size, dtype)
    assert_close(attended(leaves, Rule(packed_row, rule)), plain(leaves, Rule(packed_row, rule)), leaves)


@compiled
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 60), st.sampled_from([causal, window]))
def test_any_lengths(lengths: list[int], shared: int, rule: Any) -> None:
    rows = [[*range(shared), *([100 + i] * length)] for i, length in enumerate(lengths)]
    packed_row = pack(rows, [shared] * len(rows))
    leaves = numbers(packed_row, 2, 1, 16, torch.float32)
    assert_close(attended(leaves, Rule(packed_row, rule)), plain(leaves, Rule(packed_row, rule)), leaves)


@compiled
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(p: float) -> None:
    """The factors show where the values are unit vectors; with them it is the plain formula, backward too."""
    packed_row = pack([[*BEGINNING, 1, 2, 3], [*BEGINNING, 4, 5], [7] * 30, [8] * 20], [37, 37, 1, 1])
    tokens, rule = len(packed_row.ids), Rule(packed_row, everything)
    size = -(-tokens // 16) * 16
    leaves = numbers(packed_row, 4, 2, size, torch.float32)
    units = torch.eye(tokens, size)[None, None].expand(1, 2, tokens, size)
    torch.manual_seed(5)
    dropped = attended([*leaves[:2], units], rule, p)[0, :, :, :tokens].transpose(0, 1)
    shares = plain([*leaves[:2], units], rule)[0, :, :, :tokens].transpose(0, 1)
    factors = torch.where(dropped != 0, torch.tensor(1 / (1 - p), dtype=torch.float64), 0.0)
    assert torch.allclose(dropped.double(), shares * factors, atol=1e-6)
    torch.manual_seed(5)
    assert_close(attended(leaves, rule, p), plain(leaves, rule, factors), leaves)
    kept = (factors != 0)[shares > 0]
    assert float(kept.double().mean()) == pytest.approx(1 - p, abs=0.02)
    assert not torch.equal(factors[0], factors[1])  # every head drops others
    torch.manual_seed(6)
    assert not torch.equal(attended(leaves, rule, p), attended(leaves, rule, p))


@compiled
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    packed_row = pack([[*BEGINNING, *[i] * 50] for i in range(5)], [37] * 5)
    leaves, threads = numbers(packed_row, 4, 1, 32, torch.float32), torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        ours = attended(leaves, Rule(packed_row, causal))
        found.append(torch.cat([x.flatten() for x in (ours, *torch.autograd.grad(ours.sum(), leaves))]))
    torch.set_num_threads(threads)
    assert torch.equal(*found)


@compiled
def test_behind_a_past_and_while_a_row_grows() -> None:
    """Scoring goes on behind keys and values that it knows, in two steps here; as torch's attention has it."""
    first = pack([BEGINNING], [0])
    past = Past(len(first.ids))
    _, key, value = numbers(first, 4, 2, 16, torch.float32)
    past.layers[0] = [(key.detach(), value.detach())]
    found = []
    for off in (False, True):
        packed_row, parts = PackedRow(past=past, keep=Past(0)), []
        a = packed_row.add([5, 6, 7], range(37, 40))
        for step in range(2):
            if step:
                packed_row.computed = 3
                packed_row.add([8, 9], range(40, 42), (a,), torch.eye(2, dtype=torch.bool))
                packed_row.add([8] * 20, range(40, 60), (a,))
            leaves = [x[:, :, packed_row.computed :].detach() for x in numbers(packed_row, 4, 2, 16, torch.float32)]
            module, options = SimpleNamespace(layer_idx=0), {"scaling": SCALE}
            with kernels.without() if off else nullcontext():
                parts.append(attention._over_blocks(module, *leaves, Rule(packed_row, causal), options))
        found.append(torch.cat(parts, dim=1))
    assert torch.allclose(*found, atol=1e-6)


@compiled
def test_what_it_is_not_for_goes_to_torch() -> None:
    packed_row = pack([[1, 2, 3]], [1])
    for size, dtype, options in (
        (24, torch.float32, {}),
        (16, torch.float64, {}),
        (16, torch.float32, {"softcap": 5.0}),
        (16, torch.float32, {"dropout": 1.0}),
    ):
        assert not block_attention.suits(
            *numbers(packed_row, 2, 1, size, dtype), block_attention.most_of(packed_row), options
        )
