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


def rows_in_eight_bits(x: Tensor, by: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return whole numbers (N, D) and scales (N,) of rows, the kernel's float32 steps one after the other."""
    values = x.float().numpy() if by is None else x.float().numpy() * by.numpy()
    with np.errstate(all="ignore"):
        largest = np.abs(values).max(axis=1, initial=0)
        usual = np.isfinite(largest) & (largest > np.float32(1e-30))
        turned = np.where(usual, np.float32(127) / largest, np.float32(0))
        scale = np.where(np.isfinite(largest), np.where(usual, largest / np.float32(127), 0), np.nan)
        whole = np.where(usual[:, None], np.rint(values * turned[:, None]), 0)
    return whole.astype(np.int64), scale.astype(np.float32)


def twin(x: Tensor, weight: Tensor, by: Tensor | None, scales: Tensor | None, bias: Tensor | None) -> np.ndarray:
    """Return what the kernel computes from whole numbers `weight` (O, D), in float64 behind the sums."""
    whole, own = rows_in_eight_bits(x, by)
    found = (whole @ weight.numpy().astype(np.int64).T) * own[:, None].astype(np.float64)
    found = found if scales is None else found * scales.numpy()
    return found if bias is None else found + bias.numpy()


@compiled
@both_types
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 80), st.integers(1, 90), st.integers(0, 3), st.booleans())
def test_sums_are_those_of_whole_numbers(
    dtype: torch.dtype, rows: int, size: int, out: int, seed: int, biased: bool
) -> None:
    x, weight = numbers(rows, size, seed=seed).to(dtype), numbers(out, size, seed=seed + 1).to(dtype)
    bias = numbers(out, seed=seed + 2).to(dtype) if biased else None
    whole, scales = int8.in_eight_bits(weight)
    eight = Int8Weight(weight, bias)
    expected = twin(x, whole, None, scales, None if bias is None else bias.float())
    close(eight.of(x), expected, dtype)
    dy = numbers(rows, out, seed=seed + 3).to(dtype)
    close(eight.back(dy), twin(dy, whole.t(), scales, None, None), dtype)
    onto = numbers(rows, size, seed=seed + 4).to(dtype)
    close(eight.back(dy, onto.clone()), onto.double().numpy() + twin(dy, whole.t(), scales, None, None), dtype)


def close(found: Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    """Look whether float32, or bfloat16, behind exact sums is all that lies between."""
    assert found.dtype == dtype
    size = np.abs(expected).max() or 1.0
    rounding = 1e-6 if dtype == torch.float32 else 8e-3
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=rounding, atol=size * 1e-6)


@compiled
def test_whole_numbers_are_exact_bit_for_bit() -> None:
    """With scales of powers of two nothing is rounded behind the sums."""
    own = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (7, 133), generator=own).float()
    x[:, 0] = 127  # a row's scale is 1
    weight = torch.randint(-127, 128, (37, 133), generator=own, dtype=torch.int64)
    packed = int8.packed(weight.to(torch.int8))
    assert torch.equal(int8.product(x, packed, None).long(), x.long() @ weight.t())


@compiled
@both_types
def test_the_kernel_brings_rows_to_the_twins_numbers(dtype: torch.dtype) -> None:
    x = numbers(6, 50).to(dtype)
    x[1] = 0
    x[2] *= 1e-38
    x[3, 7] = 1e4
    x[4, 3], x[5, 9] = torch.inf, torch.nan
    by = numbers(50, seed=3).abs()
    for scale in (None, by):
        q, row_scales = torch.empty(6, 52, dtype=torch.uint8), torch.empty(6)
        kernels.call(kernels.library(dtype), "int8_rows", x, scale, q, row_scales, 6, 50, 52)
        whole, own = rows_in_eight_bits(x, scale)
        assert np.array_equal(q[:, :50].long().numpy() - 128, whole)
        assert np.array_equal(row_scales.numpy(), own, equal_nan=True)
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
