"""How far the plain way of computing rounds, against which fast ways are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunelift.fast.undo import in_evaluation, stock
from tunelift.model_facts.parameters import device_of, is_half

ROUNDINGS = 1.5
"""A fast way may be so many times as far from exact as the plain one, over all rows together."""

OF_ONE_ROW = 3.0
"""And so many times in one row, of which few numbers may tell."""

IN_FLOAT32 = 1e-4
"""What two right ways may be apart in float32, whatever a model makes of its rounding; a wrong one is far off."""

UNKNOWN = 0.03
"""The rounding in half precision of a model that cannot be asked in float32."""

WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Plain:
    """What a model says of some rows the plain way, each by itself, and how far that may be from what is right.

    `own` and `exact` (in float32 at least) have for each row what was asked for, (T, ...). Without `exact` ones, a fast
    way may be as far from `own` as is `allowed`, relatively.
    """

    own: list[Tensor]
    exact: list[Tensor] | None
    allowed: float = 0.0

    def agrees(self, found: Sequence[Tensor], parts: Sequence[slice] = ()) -> bool:
        """Tell whether a fast way says the same of the rows, or of a part of each; `parts` slice the rows' tokens."""
        parts = parts or [slice(None)] * len(found)
        own = [row[part] for row, part in zip(self.own, parts, strict=True)]
        exact = own if self.exact is None else [row[part] for row, part in zip(self.exact, parts, strict=True)]
        if [states.shape for states in found] != [states.shape for states in exact]:
            return False
        allowed = self.allowed
        if self.exact is not None:
            whole = apart(torch.cat(self.own), torch.cat(self.exact))
            allowed = ROUNDINGS * max(whole, apart(torch.cat(own), torch.cat(exact)))
        each = max(apart(*pair) for pair in zip(found, exact, strict=True))
        return apart(torch.cat(list(found)), torch.cat(exact)) <= allowed and each <= OF_ONE_ROW * allowed


@torch.no_grad()
def asked_plainly(model: Any, ask: Callable[[Tensor], Tensor], rows: Sequence[Sequence[int]]) -> Plain:
    """Ask a model (1, T) ids row by row as it was before anything was made fast, and in float32.

    `ask` returns (T, ...).
    """
    device = device_of(model)
    ids = [torch.tensor([list(row)], dtype=torch.long, device=device) for row in rows]
    with stock(), in_evaluation(model):
        own = [ask(row) for row in ids]
        if own[0].dtype in WIDE and not any(map(is_half, model.parameters())):
            return Plain(own, None, IN_FLOAT32)
        try:
            with in_float32(model):
                exact = [ask(row) for row in ids]
        except Exception:  # whatever a model's code does with its weights, they cannot be widened under it
            return Plain(own, None, UNKNOWN)
    return Plain(own, exact)


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the norm of a difference over the norm of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-6))


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Let each module compute with its own numbers widened to float32, which are made as it is called, and lost."""
    with ExitStack() as stack:
        for module in model.modules():
            kinds = [
                value.dtype for value in (*module._parameters.values(), *module._buffers.values()) if value is not None
            ]
            if torch.float16 in kinds or torch.bfloat16 in kinds:
                kept = list[tuple[dict[str, Any], dict[str, Any]]]()
                before = module.register_forward_pre_hook(lambda module, _, kept=kept: _widen(module, kept))
                after = module.register_forward_hook(lambda *_, kept=kept: _narrow(kept), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
                stack.callback(_narrow, kept)
        yield


def _widen(module: nn.Module, kept: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for numbers in (vars(module)["_parameters"], vars(module)["_buffers"]):
        kept.append((numbers, dict(numbers)))
        for name, value in numbers.items():
            if value is not None and is_half(value):
                wide = value.detach().float()
                numbers[name] = nn.Parameter(wide, requires_grad=False) if isinstance(value, nn.Parameter) else wide


def _narrow(kept: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    while kept:
        numbers, before = kept.pop()
        numbers.update(before)
