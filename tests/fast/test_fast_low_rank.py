"""LoRA's thin products in C are torch's, for any sizes and parts of the columns."""

from __future__ import annotations

import pytest
import torch
from test_fast_kernels import ROUNDED, both_types, compiled, numbers

from tunelift.fast import kernels
from tunelift.fast.low_rank import Products


def compiled_products(x: torch.Tensor, rank: int) -> Products:
    ours = Products.fitting(x, [x.shape[1]], [rank])
    if not kernels.library(x.dtype).low_rank_runs():
        pytest.skip("this processor multiplies no two bfloat16 at once")
    assert ours.functions is not None
    return ours


def assert_close(found: torch.Tensor, twin: torch.Tensor) -> None:
    assert float((found.double() - twin).abs().max()) <= ROUNDED[found.dtype] * float(twin.abs().max())


@compiled
@both_types
@pytest.mark.parametrize(("rows", "size", "rank", "first"), [(1, 16, 2, 0), (49, 336, 8, 4), (131, 640, 36, 0)])
@pytest.mark.parametrize("turned", [False, True])
def test_each_equals_its_twin(rows: int, size: int, rank: int, first: int, turned: bool, dtype: torch.dtype) -> None:
    x, m = numbers(rows, size, dtype=dtype), numbers(rank, size, seed=1).to(dtype).float()
    m = m.t().contiguous().t() if turned else m
    low = numbers(rows, rank + 6, dtype=dtype, seed=2)
    part, exact = slice(first, first + rank), low.double()
    ours = compiled_products(x, rank)

    y = x.clone()
    ours.out_of(low, first, m, y, 0.7)
    assert_close(y, x.double() + 0.7 * exact[:, part] @ m.double())

    gradient = ours.gradient(low, part, x, 0.7, torch.float32)
    assert float((gradient - 0.7 * exact[:, part].t() @ x.double()).abs().max()) < 1e-5 * rows

    found = low.clone()
    ours.into(found, first, x, m, 0.7)
    assert_close(found[:, part], 0.7 * x.double() @ m.double().t())
    assert torch.equal(found[:, :first], low[:, :first])
    assert torch.equal(found[:, part.stop :], low[:, part.stop :])


@compiled
def test_what_does_not_fit_is_torchs() -> None:
    x = numbers(3, 32)
    assert Products.fitting(x, [32], [8]).functions is not None
    for sizes, ranks in (([33], [8]), ([32], [7]), ([32], [130])):
        assert Products.fitting(x, sizes, ranks).functions is None
    assert Products.fitting(x.double(), [32], [8]).functions is None
    with kernels.without():
        assert Products.fitting(x, [32], [8]).functions is None


@compiled
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, m, threads = numbers(131, 640), numbers(8, 640, seed=1), torch.get_num_threads()
    ours = compiled_products(x, 8)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        low, y = x.new_empty(131, 8), x.clone()
        ours.into(low, 0, x, m)
        ours.out_of(low, 0, m, y)
        found.append(
            torch.cat([low.flatten(), y.flatten(), ours.gradient(low, slice(0, 8), x, 1.0, x.dtype).flatten()])
        )
    torch.set_num_threads(threads)
    assert torch.equal(*found)
