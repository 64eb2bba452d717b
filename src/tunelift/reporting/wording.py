"""Numbers, and the verdict, in words: the same on the page and on the card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def number(value: float | None) -> str:
    """Return a metric's value with three decimals, fewer where it is large; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    decimals = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    text = f"{size:,.{decimals}f}"
    if value and not float(text.replace(",", "")):
        text = f"{size:.1e}"
    return f"{MINUS}{text}" if value < 0 else text


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 and math.isfinite(value) else text


def interval(bounds: list[float | None] | None) -> str:
    """Return `+0.160 to +0.280`; a dash where there is no interval."""
    return f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else DASH


def p_figure(value: float | None) -> str:
    """Return `0.031` or `< 0.001`; a dash where there is no p."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Return a whole number with commas between thousands."""
    return DASH if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return `3 min 20 s`, `1 h 4 min` or `2.5 s`."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(amount_bytes: float | None) -> str:
    """Return bytes as `2.9 GB`, in powers of 1,000."""
    if amount_bytes is None:
        return DASH
    for unit in ("B", "kB", "MB"):
        if amount_bytes < 1000:
            return f"{amount_bytes:.0f} {unit}"
        amount_bytes /= 1000
    return f"{amount_bytes:.1f} GB"


def headline(comparison: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the headline metric's name and its entry; two empty values where nothing was compared."""
    metrics = comparison.get("metrics") or {}
    name = (comparison.get("headline") or {}).get("metric") or next(iter(metrics), "")
    return name, metrics.get(name) or {}


def verdict_sentence(comparison: Mapping[str, Any]) -> str:
    """Return the verdict in one sentence; one that says why not where nothing was compared."""
    name, entry = headline(comparison)
    if not entry:
        return "No verdict: the base and the tuned model have not been compared."
    judged = {
        "better": "The tuned model is better",
        "worse": "The tuned model is worse",
        "equivalent": "The tuned model is as good as the base, within the margin",
        "inconclusive": "Inconclusive: these items do not settle whether the tuned model is better",
    }[entry["verdict"]]
    return f"{judged}: {measure(name)} {_movement(entry['base'], entry['tuned'])}."


def evidence_sentence(comparison: Mapping[str, Any]) -> str:
    """Return the difference, its interval, the test and p, and how many items they rest on; empty without a verdict."""
    _, entry = headline(comparison)
    if not entry:
        return ""
    parts = [f"The difference is {signed(entry['difference'])}"]
    if entry.get("interval"):
        parts.append(f"{comparison.get('level', 0.95):.0%} interval {interval(entry['interval'])}")
    if entry.get("p") is not None:
        parts.append(f"{entry.get('test') or 'paired test'}, p {_after_p(entry['p'])}")
    rest = f"on the same {count(comparison['items'])} items" if "items" in comparison else "on the same items"
    return f"{parts[0]}{' (' + '; '.join(parts[1:]) + ')' if parts[1:] else ''}, {rest}."


def measure(name: str) -> str:
    """Return a metric's name as words: `token_f1` is `token f1`."""
    return name.replace("_", " ")


def method(name: str) -> str:
    """Return a PEFT method's name as it is written: `lora` is `LoRA`."""
    return {"lora": "LoRA", "adalora": "AdaLoRA", "ia3": "IA3"}.get(name, name)


def _after_p(value: float) -> str:
    figure = p_figure(value)
    return figure if figure.startswith("<") else f"= {figure}"


def _movement(base: float | None, tuned: float | None) -> str:
    if base is None or tuned is None:
        return "has no value"
    if base == tuned:
        return f"stayed at {number(base)}"
    return f"{'rose' if tuned > base else 'fell'} from {number(base)} to {number(tuned)}"
