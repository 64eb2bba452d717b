"""Products in eight bits: equal to whole numbers in numpy, bit for bit, and each row by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fast_kernels import both_types, compiled, numbers
from torch import Tensor

from tunelift.fast import int8, kernels
from tunelift.fast.int8 import Int8Weight


def rows_in_eight_bits(x: Tensor, by: Tensor | None, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers (N, D) and scales (N, groups) of rows, the kernel's float32 steps one after the other."""
    values = x.float().numpy() if by is None else x.float().numpy() * by.numpy()
    parts = [values[:, first : first + group] for first in range(0, values.shape[1], group)]
    with np.errstate(all="ignore"):
        largest = np.stack([np.abs(part).max(axis=1, initial=0) for part in parts], axis=1)
        usual = np.isfinite(largest) & (largest > np.float32(1e-30))
        turned = np.where(usual, np.float32(127) / largest, np.float32(0))
        scale = np.where(np.isfinite(largest), np.where(usual, largest / np.float32(127), 0), np.nan)
        whole = [np.where(usual[:, [g]], np.rint(part * turned[:, [g]]), 0) for g, part in enumerate(parts)]
    return np.concatenate(whole, axis=1).astype(np.int64), scale.astype(np.float32)


def weight_in_eight_bits(weight: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers (O, D) and scales (O,) of a weight."""
    values = weight.float().numpy()
    scales = np.abs(values).max(axis=1) / np.float32(127)
    return np.rint(values / np.where(scales > 0, scales, np.float32(1))[:, None]).astype(np.int64), scales


def twin(x: Tensor, parts: list[tuple[np.ndarray, np.ndarray]], by: Tensor | None, group: int) -> np.ndarray:
    """Return what the kernel computes: each group's sum in whole numbers, the rest in float64.

    `parts` are the whole numbers (O, group) and scales (O,) of each group of columns.
    """
    whole, own = rows_in_eight_bits(x, by, group)
    sums = (whole[:, g * group : (g + 1) * group] @ numbers.T for g, (numbers, _) in enumerate(parts))
    scales = (own[:, [g]].astype(np.float64) * part.astype(np.float64) for g, (_, part) in enumerate(parts))
    return sum(total * scale for total, scale in zip(sums, scales, strict=True))


@compiled
@both_types
@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 20), st.integers(1, 300), st.integers(1, 90)),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_sums_are_those_of_whole_numbers(
    dtype: torch.dtype, sizes: tuple[int, int, int], seed: int, biased: bool, shifted: bool
) -> None:
    rows, size, out = sizes
    x, weight = numbers(rows, size, seed=seed).to(dtype), numbers(out, size, seed=seed + 1).to(dtype)
    bias = numbers(out, seed=seed + 2).to(dtype) if biased else None
    eight = Int8Weight(weight, bias, x.float().abs().amax(dim=0) if shifted else None)
    wide = weight.float() if eight.by is None else weight.float() * (1.0 / eight.by)
    parts = [weight_in_eight_bits(wide[:, at : at + int8.GROUP]) for at in range(0, size, int8.GROUP)]
    expected = twin(x, parts, eight.by, min(int8.GROUP, -(-size // 4) * 4))
    close(eight.of(x), expected + (bias.float().numpy() if biased else 0), dtype)
    whole, scales = weight_in_eight_bits(weight)
    dy, onto = numbers(rows, out, seed=seed + 3).to(dtype), numbers(rows, size, seed=seed + 4).to(dtype)
    expected = twin(dy, [(whole.T, np.ones(size))], torch.from_numpy(scales), -(-out // 4) * 4)
    close(eight.back(dy), expected, dtype)
    close(eight.back(dy, onto.clone()), onto.double().numpy() + expected, dtype)


def close(found: Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    """Look whether float32, or bfloat16, behind exact sums is all that lies between."""
    assert found.dtype == dtype
    size = np.abs(expected).max() or 1.0
    rounding = 1e-6 if dtype == torch.float32 else 8e-3
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=rounding, atol=size * 1e-6)


@compiled
@pytest.mark.parametrize("group", [int8.DEEPEST, 128, 4])
def test_whole_numbers_are_exact_bit_for_bit(group: int) -> None:
    """With scales of one nothing is rounded behind the sums."""
    own = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (7, 133), generator=own).float()
    x[:, ::4] = 127
    weight = torch.randint(-127, 128, (37, 133), generator=own).float()
    weight[:, ::4] = 127
    for packed in (int8.packed(weight, group), int8.packed(weight, group, over=torch.ones(133))):
        assert torch.equal(int8.product(x, packed, None), x @ weight.t())


@compiled
@both_types
@pytest.mark.parametrize("group", [52, 20])
def test_the_kernel_brings_rows_to_the_twins_numbers(dtype: torch.dtype, group: int) -> None:
    x = numbers(6, 50).to(dtype)
    x[1] = 0
    x[2] *= 1e-38
    x[3, 7] = 1e4
    x[4, 3], x[5, 9] = torch.inf, torch.nan
    for by in (None, numbers(50, seed=3).abs()):
        q, scales = torch.empty(6, 52, dtype=torch.uint8), torch.empty(6, -(-52 // group))
        kernels.call(kernels.library(dtype), "int8_rows", x, by, q, scales, 6, 50, 52, group)
        whole, own = rows_in_eight_bits(x, by, group)
        assert np.array_equal(q[:, :50].long().numpy() - 128, whole)
        assert np.array_equal(scales.numpy(), own, equal_nan=True)
        assert (q[:, 50:] == 128).all()


@compiled
@both_types
def test_a_rows_result_does_not_depend_on_its_neighbours(dtype: torch.dtype) -> None:
    eight = Int8Weight(numbers(70, 45, seed=1), numbers(70, seed=2))
    x, dy = numbers(9, 45).to(dtype), numbers(9, 70).to(dtype)
    x[4], dy[4] = torch.nan, torch.inf
    for ask, rows in ((eight.of, x), (eight.back, dy)):
        together = ask(rows)
        assert together[4].isnan().all()
        for i in (0, 3, 5, 8):
            assert torch.equal(together[i], ask(rows[i : i + 1])[0])


@compiled
def test_rows_of_nothing_give_the_bias() -> None:
    bias = numbers(20, seed=2)
    assert torch.equal(Int8Weight(numbers(20, 8), bias).of(torch.zeros(2, 8)), bias.expand(2, 20))
    assert Int8Weight(numbers(20, 8), None).of(torch.zeros(0, 8)).shape == (0, 20)
    dead = numbers(4, 8)
    dead[1:] = 0
    assert (Int8Weight(dead, None).of(numbers(3, 8))[:, 1:] == 0).all()


@compiled
def test_what_does_not_fit_is_refused() -> None:
    eight = Int8Weight(numbers(20, 8), None)
    for call in (
        lambda: eight.of(numbers(3, 9)),
        lambda: eight.back(numbers(3, 20), numbers(3, 9)),
        lambda: int8.product(numbers(3, 8), eight.forward, numbers(5)),
    ):
        with pytest.raises(kernels.UnsafeCallError):
            call()
    assert not int8.fits(torch.empty(3, int8.DEEPEST + 1, device="meta"))
    assert not int8.fits(numbers(3, 8).double())
