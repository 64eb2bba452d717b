"""Attention of a step and adapters by token, each against the plain formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunelift.fast import kernels
from tunelift.fast.compiling import UncompiledError
from tunelift.serving import attention
from tunelift.serving.attention import Arena, PagedRule, Part, Step
from tunelift.serving.lora import Even, Whose
from tunelift.serving.pages import PAGE

CPU = torch.device("cpu")


def has_kernels() -> bool:
    try:
        kernels.library(torch.float32)
    except UncompiledError:
        return False
    return True


def window(_: Any, __: Any, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & (key > query - 50)


def causal(_: Any, __: Any, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def plain(query: Tensor, rule: PagedRule) -> Tensor:
    """Attend as the formula says, in double precision, (1, N, H, d)."""
    step, found = rule.step, []
    keys, values = (x.double().repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in step.arena.layers[0])
    for number, part in enumerate(step.parts):
        places = step.seen_places(number, CPU)
        scores = torch.einsum("hnd,chd->hnc", query[0, :, part.start : part.stop].double(), keys[places])
        scores = (scores * query.shape[3] ** -0.5).masked_fill(~rule.mask(number), -torch.inf)
        found.append(torch.einsum("hnc,chd->nhd", scores.softmax(dim=-1), values[places]))
    return torch.cat(found)[None]


@pytest.mark.skipif(not has_kernels(), reason="the kernels need a C compiler")
@pytest.mark.parametrize("allowed", [causal, window])
@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 1, 32), (6, 3, 16), (50, 1, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_that_come_alone_and_chunks_are_the_plain_formula(
    allowed: Any, heads: int, groups: int, size: int, dtype: torch.dtype
) -> None:
    """Single tokens, whose keys are read where they lie unless many heads ask, between chunks; pages in any order."""
    parts = [
        Part(0, 1, 2 * PAGE + 5, (3, 1, 2)),
        Part(1, 20, 70, (8, 7)),
        Part(20, 21, 0, (0,)),
        Part(21, 22, PAGE - 1, (4,)),
        Part(22, 24, 0, (5,)),
    ]
    own = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, count, 24, size, generator=own).to(dtype) for count in (heads, groups, groups))
    arena = Arena(9 * PAGE)
    for x in arena.layer(0, key, value):
        x.copy_(torch.randn(x.shape, generator=own))
    rule = PagedRule(Step(arena, parts, CPU), allowed)
    found, _ = attention._attention("sdpa", None, query, key, value, rule)
    plan = rule.plan(heads // groups)
    assert plan.lying == (4 if heads // groups <= 48 else 0)
    near = {"atol": 1e-5} if dtype == torch.float32 else {"atol": 0.02}
    assert torch.allclose(found.double(), plain(query, rule), rtol=0, **near)
    rule.step.calls = 0
    with kernels.without():
        slow, _ = attention._attention("sdpa", None, query, key, value, rule)
    assert torch.allclose(found.double(), slow.double(), rtol=0, **near)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=20))
@example([0, 1, 2, 3])
@example([0, 0, 1, 1, 2, 2, 3, 3])
@example([1, 0, 2, 3])
def test_each_token_gets_its_own_adapter(whose: list[int]) -> None:
    own = torch.Generator().manual_seed(len(whose))
    a, b = torch.randn(4, 3, 5, generator=own), torch.randn(4, 3, 7, generator=own)
    x, y = (torch.randn(len(whose), size, generator=own) for size in (5, 7))
    wanted = [y[n] + x[n] @ a[k].t() @ b[k] if k >= 0 else y[n] for n, k in enumerate(whose)]
    even = Even.of(whose, 4)
    most = max(whose.count(k) for k in range(4))
    assert (even is None) == (4 * most > 2 * len(whose))
    for layout in (even, None):
        assert torch.allclose(Whose(whose, layout).added(y, x, a, b), torch.stack(wanted), atol=1e-5)
    if even is not None:
        assert even.as_they_are == (len(set(whose)) == 4 and whose == sorted(whose) and most * 4 == len(whose))
