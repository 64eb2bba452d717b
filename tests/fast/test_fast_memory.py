"""What C relies on is looked at before it touches memory: dtypes, widths, strides, places."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_fast_block_attention import causal
from test_fast_kernels import compiled, numbers
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, apply_rotary_pos_emb

import tiny_models
from tunelift.core import cache
from tunelift.fast import attention, block_attention, fusing, kernels
from tunelift.fast.attention import Rule, UnpackableError
from tunelift.fast.low_rank import Products
from tunelift.fast.packed_rows import pack
from tunelift.fast.target_model import target_model
from tunelift.fast.target_only import TargetOnly
from tunelift.fast.unpad import sped_up

PACKED_ROW = pack([[1, 2, 3, 4, 5], [6, 7, 8]], [0, 0])


@pytest.fixture(params=[torch.bfloat16, torch.float64])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def loss_and_gradients(model: Any) -> Tensor:
    view, _ = target_model(model)
    assert isinstance(view, TargetOnly) and view.packs
    ids = torch.arange(3, 3 + 2 * 30).view(2, 30)
    with sped_up(model) as states:
        assert states["fused_passes"].startswith("on")
        loss = view.loss_sum({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
        loss.backward()
    return torch.cat([loss.detach().view(1), *(p.grad.flatten() for p in model.parameters() if p.requires_grad)])


@compiled
@pytest.mark.parametrize("rough", [False, True])
def test_another_default_dtype_changes_no_buffer(rough: bool, default_dtype: torch.dtype) -> None:
    found = []
    for default in (torch.float32, default_dtype):
        torch.set_default_dtype(torch.float32)
        model = tiny_models.adapted(tiny_models.causal("llama"))
        model = model.bfloat16() if rough else model
        torch.set_default_dtype(default)
        found.append(loss_and_gradients(model).double())
    assert float((found[0] - found[1]).abs().max() / found[0].abs().max()) < (1e-2 if rough else 1e-6)


def heads(count: int, tokens: int, size: int) -> Tensor:
    return numbers(1, tokens, count, size).transpose(1, 2)


@compiled
@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 8, 192), (2, 8, 192), (2, 8, 128)),  # DeepSeek's: keys are wider than values
        ((2, 8, 32), (2, 8, 16), (2, 8, 16)),
        ((3, 8, 16), (2, 8, 16), (2, 8, 16)),
        ((2, 8, 16), (2, 8, 16), (1, 8, 16)),
        ((2, 8, 16), (2, 8, 16), (2, 7, 16)),
    ],
)
def test_attention_takes_heads_of_one_width_only(shapes: tuple[tuple[int, int, int], ...]) -> None:
    query, key, value = (heads(*shape) for shape in shapes)
    assert not block_attention.suits(query, key, value, block_attention.most_of(PACKED_ROW), {})


@compiled
def test_keys_wider_than_values_are_attended_by_torch() -> None:
    query, key, value = heads(2, 8, 192), heads(2, 8, 192), heads(2, 8, 128)
    found = attention._over_blocks(SimpleNamespace(layer_idx=0), query, key, value, Rule(PACKED_ROW, causal), {})
    plain = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, :5], key[:, :, :5], value[:, :, :5], is_causal=True
    )
    assert found.shape == (1, 8, 2, 128)
    assert torch.allclose(found[:, :5], plain.transpose(1, 2), atol=1e-5)


@compiled
def test_attention_of_another_row_is_refused() -> None:
    plan = Rule(PACKED_ROW, causal).plan(1)
    for tokens, keys in ((7, 8), (9, 9), (8, 7)):
        with pytest.raises(kernels.UnsafeCallError, match="are not those of the packed row"):
            block_attention.attend(heads(2, tokens, 16), heads(2, keys, 16), heads(2, keys, 16), plan, {})


def test_a_token_that_sees_nothing_is_no_packed_row() -> None:
    with pytest.raises(UnpackableError, match="sees no other, nor itself"):
        Rule(PACKED_ROW, lambda _b, _h, query, key: key < query).plan(1)


@compiled
def test_a_norm_of_another_width_is_torchs() -> None:
    norm = LlamaRMSNorm(24).requires_grad_(False)
    norm.weight = torch.nn.Parameter(torch.tensor([2.0]), requires_grad=False)  # broadcast by torch
    x = numbers(3, 24)
    assert torch.equal(fusing._norm(norm, norm.forward, 1e-6, 0.0, x), norm(x))


@compiled
def test_a_gate_of_another_width_is_torchs() -> None:
    gate = LlamaMLP(SimpleNamespace(hidden_size=16, intermediate_size=32, hidden_act="silu", mlp_bias=False))
    gate.up_proj = torch.nn.Linear(16, 1)
    x = numbers(3, 16)
    assert torch.equal(fusing._gate(gate, gate.forward, 0, x), gate(x))


@compiled
@pytest.mark.parametrize(("rows", "size"), [(2, 16), (1, 15)])
def test_rotary_positions_of_other_shapes_are_torchs(rows: int, size: int) -> None:
    query, key, angles = numbers(1, 2, 5, size), numbers(rows, 2, 5, size, seed=1), numbers(2, 1, 5, size, seed=2)
    if size % 2:
        angles = torch.ones_like(angles)
        query, key, angles = query[..., :-1], key[..., :-1], angles[..., :-1]
        assert not fusing._whole(numbers(1, 2, 5, 15), numbers(1, 2, 5, 15), *numbers(2, 1, 5, 15))
    found = fusing._rotary(apply_rotary_pos_emb, query, key, *angles)
    assert all(torch.allclose(a, b) for a, b in zip(found, apply_rotary_pos_emb(query, key, *angles), strict=True))


@compiled
@pytest.mark.parametrize("shape", [(33, 8), (32, 6)])
def test_products_of_parts_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    x, low = numbers(3, 32), numbers(3, 8)
    products = Products.fitting(x, [32], [8])
    for call in (
        lambda: products.into(low, 2, x, numbers(8, 32)),
        lambda: products.into(low, 0, x, numbers(8, 33)),
        lambda: products.out_of(low, 0, numbers(8, 48), x),
        lambda: products.out_of(low[:2], 0, numbers(8, 32), x),
        lambda: products.gradient(low, slice(4, 12), x, 1.0, x.dtype),
        lambda: products.gradient(low, slice(1, 3), x, 1.0, x.dtype),
    ):
        with pytest.raises(kernels.UnsafeCallError):
            call()


@compiled
def test_no_call_touches_what_is_not_the_tensors() -> None:
    functions = kernels.library(torch.float32)
    x, y = numbers(4, 8), torch.empty(4, 8)
    for wrong in (x[:3], x.t(), x.double(), x.bfloat16(), x.to("meta"), x[:, ::2], x.to_sparse()):
        with pytest.raises(kernels.UnsafeCallError, match="C would touch 32 elements"):
            kernels.call(functions, "dropout", wrong, y, 32, 0, 0.5)
        with pytest.raises(kernels.UnsafeCallError, match="C would touch 32 elements"):
            kernels.call(functions, "dropout", x, wrong, 32, 0, 0.5)


def test_every_function_says_what_it_touches() -> None:
    taken = {name for name, kinds in kernels.ARGUMENTS.items() if kernels.E in kinds}
    assert taken - set(kernels.TOUCHED) == {"attention", "attention_backward"}  # block_attention.py looks after these
    for name, extents in kernels.TOUCHED.items():
        kinds, tensors = kernels.ARGUMENTS[name], kernels.TENSORS[name]
        assert kinds[: len(tensors)] == tensors, "tensors come first"
        assert len(extents(*[2] * (len(kinds) - len(tensors)))) == len(tensors)


@compiled
def test_numbers_at_an_odd_place_are_left_to_torch() -> None:
    odd = torch.zeros(65, dtype=torch.uint8)[1:].view(torch.uint8)
    x = torch.frombuffer(memoryview(bytearray(65))[1:], dtype=torch.float32)
    assert odd.data_ptr() % 4 and x.data_ptr() % 4
    assert kernels.of(x) is None
    assert kernels.of(numbers(4), x) is None
    assert kernels.of(numbers(4), numbers(4).bfloat16()) is None
    assert kernels.of(torch._neg_view(numbers(4))) is None


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_none_in_attention(dtype: torch.dtype) -> None:
    query, key, value = (heads(2, 8, 16).to(dtype) for _ in range(3))
    key = key.clone()
    key[0, 0, 0, 0] = math.nan
    found = block_attention.attend(query, key, value, Rule(PACKED_ROW, causal).plan(1), {})
    assert torch.isnan(found[0, :5, 0]).all()
    assert torch.isfinite(found[0, 5:]).all() and torch.isfinite(found[0, :, 1]).all()


@pytest.mark.skipif(os.environ.get(kernels.SWITCH) != "sanitize", reason="make sanitize")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_compiled_for_make_sanitize_looks_at_its_memory(dtype: torch.dtype) -> None:
    """Or all tests of compiled functions would be skipped, and nothing shown."""
    kernels._library.cache_clear()
    kernels.library(dtype)
    (made,) = (cache.folder() / "kernels").glob("*.so")
    assert b"__asan_report_load" in made.read_bytes() and b"__ubsan_handle" in made.read_bytes()
