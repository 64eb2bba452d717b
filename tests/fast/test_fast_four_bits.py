"""Weights in four bits are widened as a twin in numpy does it, wherever one begins and blocks end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from test_fast_kernels import compiled

from tunelift.fast import kernels
from tunelift.fast.four_bits import FourBits, numbers_of


def twin(packed: torch.Tensor, absmax: torch.Tensor, code: torch.Tensor, block: int) -> torch.Tensor:
    both = packed.numpy().reshape(-1)
    halves = np.stack([both >> 4, both & 15], axis=1).reshape(-1)
    scales = absmax.numpy()[np.arange(len(halves)) // block]
    return torch.from_numpy(code.numpy()[halves] * scales)


@compiled
@given(some.integers(1, 400), some.sampled_from((16, 64, 4096)), some.sampled_from((torch.float32, torch.bfloat16)))
def test_every_part_is_widened_as_by_the_twin(count: int, block: int, dtype: torch.dtype) -> None:
    own = torch.Generator().manual_seed(count)
    packed = torch.randint(0, 256, ((count + 1) // 2,), generator=own, dtype=torch.uint8)
    absmax = torch.randn(-(-count // block), generator=own, dtype=torch.float32).abs()
    code = torch.linspace(-1, 1, 16, dtype=torch.float32)
    expected = twin(
        packed, absmax[: -(-2 * len(packed) // block)].repeat(2)[: -(-2 * len(packed) // block)], code, block
    )
    for first in {0, 1, count // 2, count - 1}:
        found = torch.empty(count - first, dtype=dtype)
        functions = kernels.library(dtype)
        kernels.call(functions, "four_bits_wide", packed, absmax, code, found, first, count - first, block)
        assert torch.equal(found, expected[first:count].to(dtype))


@compiled
def test_no_more_is_read_than_there_is() -> None:
    state = SimpleNamespace(shape=(4, 32), dtype=torch.float32, absmax=torch.ones(1), code=torch.ones(16), blocksize=64)
    with pytest.raises(kernels.UnsafeCallError, match="C would touch 2 elements"):
        FourBits(torch.zeros(64, dtype=torch.uint8), state).wide()
    state.absmax = torch.ones(2)
    assert torch.equal(FourBits(torch.zeros(64, dtype=torch.uint8), state).wide(), torch.ones(4, 32))


def test_other_layers_have_no_four_bits() -> None:
    assert numbers_of(torch.nn.Linear(4, 4)) is None
