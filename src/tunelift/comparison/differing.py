"""Where two values of JSON differ by more than rounding."""

from __future__ import annotations

from typing import Any

ROUNDING = 1e-9
"""Relative: sums of the same numbers by another processor."""


def differing(told: Any, found: Any, where: str) -> list[str]:
    """Return where two JSON values differ by more than rounding."""
    if isinstance(told, dict) and isinstance(found, dict):
        keys = [*told, *(key for key in found if key not in told)]
        return [one for key in keys for one in differing(told.get(key), found.get(key), f"{where}.{key}".strip("."))]
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        both = enumerate(zip(told, found, strict=True))
        return [one for index, (a, b) in both for one in differing(a, b, f"{where}[{index}]")]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (told, found))
    same = abs(told - found) <= ROUNDING * max(1.0, abs(told)) if numbers else told == found
    return [] if same else [f"{where} is {str(told)[:60]}, and is {str(found)[:60]} made again"]
