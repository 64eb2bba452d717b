"""Attention of short blocks: with dropout it is what the plain formula gives with the same factors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tunelift.fast import short_rows
from tunelift.fast.attention import Rule
from tunelift.fast.layout import pack


def causal(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_it_is_the_plain_formula(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []

    def factors(like: Tensor, p: float) -> Tensor:
        drawn.append(made(like, p))
        return drawn[-1]

    made = short_rows.dropout_factors
    monkeypatch.setattr(short_rows, "dropout_factors", factors)
    beginning = list(range(20))
    layout = pack([[*beginning, 1, 2, 3], [*beginning, 4, 5], [7] * 70], [21, 21, 1])
    rule = Rule(layout, causal)
    assert [len(group.rows) for group in rule.groups()] == [1, 2, 1]
    torch.manual_seed(0)
    heads, groups, size, tokens = 4, 2, 8, len(layout.ids)
    leaves = [torch.randn(1, n, tokens, size, dtype=torch.float64, requires_grad=True) for n in (heads, groups, groups)]
    ours = short_rows.attend(*leaves, rule, {"dropout": dropout, "scaling": 0.3})

    query, key, value = leaves[0][0], *(x[0].repeat_interleave(2, dim=0) for x in leaves[1:])
    rows = [torch.tensor(row) for row in layout.rows]
    found = torch.zeros(tokens, heads, size, dtype=torch.float64)
    for group, own in zip(rule.groups(), drawn or [None] * 3, strict=True):
        for i, block in enumerate(group.rows):
            seen = next(row for row in rows if block.start in row)
            seen = seen[seen < block.stop]
            places = torch.arange(block.start, block.stop)
            positions = torch.tensor(layout.positions)
            scores = query[:, places] @ key[:, seen].transpose(1, 2) * 0.3
            hidden = positions[seen][None] > positions[places][:, None]
            shares = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
            if own is not None:
                width = group.own.shape[1]
                mine = own[i].view(heads, width, -1)[:, : len(places), : len(seen)]
                shares = shares * mine
            found[places] = (shares @ value[:, seen]).transpose(0, 1)
    assert torch.allclose(ours[0], found, atol=1e-12)
    above = torch.randn_like(found)
    for one, twin in zip(*(torch.autograd.grad(x, leaves, above) for x in (ours[0], found)), strict=True):
        assert torch.allclose(one, twin, atol=1e-10)


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
def test_dropout_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    factors = short_rows.dropout_factors(torch.empty(301, 333), p)
    kept = factors != 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.01)
    assert len(factors[kept].unique()) == (p < 1)
    assert float(factors.mean()) == pytest.approx(float(p < 1), abs=0.02)
    assert not torch.equal(factors, short_rows.dropout_factors(torch.empty(301, 333), p)) or p == 1
