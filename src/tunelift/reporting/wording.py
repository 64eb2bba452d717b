"""Numbers, and the verdict, in words: the same on the page and on the card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tunelift.wording import numbers
from tunelift.wording.numbers import level_text

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
    """Return `0.031` or `< 0.0001`, as in the terminal; a dash where there is no p."""
    return DASH if value is None else numbers.p_figure(value)


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


def energy(joules: float | None) -> str:
    """Return joules as `12.3 kJ (3.4 Wh)`; a dash where nothing was measured."""
    return DASH if joules is None else f"{joules / 1000:,.1f} kJ ({joules / 3600:,.1f} Wh)"


def share(part: float, whole: float) -> str:
    """Return a part as `12.5%` of the whole; a dash where the whole is nothing."""
    return f"{part / whole:.1%}" if whole else DASH


def headline(comparison: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the headline metric's name and its entry, base against tuned; two empty values without a comparison."""
    metrics = comparison.get("metrics") or {}
    name = (comparison.get("headline") or {}).get("metric") or next(iter(metrics), "")
    return name, metrics.get(name) or {}


def judged(comparison: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Return where the entry stands that the headline is about, and the entry: against the strongest baseline."""
    name, entry = headline(comparison)
    against = str((comparison.get("headline") or {}).get("against"))
    baselines = comparison.get("baselines") or {}
    return (("baselines", against), baselines[against]) if against in baselines else (("metrics", name), entry)


def verdict_word(comparison: Mapping[str, Any]) -> str:
    """Return the headline's verdict; `none` where nothing was compared."""
    _, entry = judged(comparison)
    return str((comparison.get("headline") or {}).get("verdict") or entry.get("verdict") or "none")


def verdict_sentence(comparison: Mapping[str, Any]) -> str:
    """Return the verdict in one sentence; one that says why not where nothing was compared."""
    name, entry = headline(comparison)
    if given := (comparison.get("headline") or {}).get("sentence"):
        return str(given)
    if not entry:
        return "No verdict: the base and the tuned model have not been compared."
    judged = {
        "better": "The tuned model is better",
        "worse": "The tuned model is worse",
        "equivalent": "The tuned model is as good as the base, within the margin",
        "different": "The tuned model differs from the base, and which is better is not known",
        "inconclusive": "Inconclusive: these items do not settle whether the tuned model is better",
    }[entry["verdict"]]
    return f"{judged}: {measure(name)} {_movement(entry['base'], entry['tuned'])}."


def evidence_sentence(comparison: Mapping[str, Any]) -> str:
    """Return the difference, its interval, the test and p, and how many items they rest on; empty without a verdict.

    Of these a sentence that comparison.json gives says all but the test and p, so then only they are returned.
    """
    _, entry = judged(comparison)
    if not entry:
        return ""
    if (comparison.get("headline") or {}).get("sentence"):
        p = f"p {_after_p(entry['p'])}" if entry.get("p") is not None else ""
        said = "; ".join(part for part in (p, grounds(entry)) if part)
        return f"{said}." if said else ""
    parts = [f"The difference is {signed(entry['difference'])}"]
    if entry.get("interval"):
        parts.append(f"{_level(comparison)} interval {interval(entry['interval'])}")
    if entry.get("p") is not None:
        parts.append(f"{entry.get('test') or 'paired test'}, p {_after_p(entry['p'])}")
    items = entry.get("items", comparison.get("items"))
    rest = f"on the same {count(items)} items" if items else "on the same items"
    return f"{parts[0]}{' (' + '; '.join(parts[1:]) + ')' if parts[1:] else ''}, {rest}."


def base_sentence(comparison: Mapping[str, Any]) -> str:
    """Return how the tuned model does against the base itself; empty where the headline says that already."""
    name, entry = headline(comparison)
    _, main = judged(comparison)
    if not entry or entry is main:
        return ""
    extent = f", {_level(comparison)} interval {interval(entry['interval'])}" if entry.get("interval") else ""
    moved = f"{measure(name)} {_movement(entry['base'], entry['tuned'])} ({signed(entry['difference'])}{extent})"
    return f"Against the base model itself: {entry['verdict']}; {moved}."


def reason(comparison: Mapping[str, Any]) -> str:
    """Return why the verdict is what it is, without the stop; empty where it is not said."""
    _, entry = judged(comparison)
    return str((comparison.get("headline") or {}).get("reason") or entry.get("reason") or "").rstrip(".")


def claim(comparison: Mapping[str, Any]) -> str:
    """Return what the verdict speaks of, such as this tuned model on items like these; empty where it is not said."""
    return str(comparison.get("claim") or "").rstrip(".")


def recipe_sentence(comparison: Mapping[str, Any]) -> str:
    """Return the verdict over seeds, with what it speaks of; empty for a run of one seed."""
    recipe = comparison.get("recipe") or {}
    if not recipe:
        return ""
    extent = f", {_level(comparison)} interval {interval(recipe['interval'])}" if recipe.get("interval") else ""
    found = f"{recipe.get('verdict') or 'inconclusive'}; mean difference {signed(recipe.get('difference'))}{extent}"
    about = f" The claim: {str(recipe['claim']).rstrip('.')}." if recipe.get("claim") else ""
    return f"Over {count(len(recipe.get('seeds') or []))} seeds: {found}.{about}"


def grounds(entry: Mapping[str, Any]) -> str:
    """Return what a verdict rests on besides its p: the test, changed items, clusters, the exact p, the margin."""
    parts = [str(entry.get("test") or "")]
    if counts := entry.get("discordant"):
        parts.append(f"{count(counts['gained'])} gained, {count(counts['lost'])} lost")
    if entry.get("clusters") is not None:
        parts.append(f"{count(entry['clusters'])} clusters")
    if entry.get("p_exact") is not None:
        parts.append(f"exact p {_after_p(entry['p_exact'])}")
    if entry.get("no_worse") is not None:
        parts.append(f"no worse than the margin allows: {'shown' if entry['no_worse'] else 'not shown'}")
    return "; ".join(part for part in parts if part)


def measure(name: str) -> str:
    """Return a metric's name as words: `token_f1` is `token f1`."""
    return name.replace("_", " ")


def _level(comparison: Mapping[str, Any]) -> str:
    return level_text(comparison.get("level", 0.95))


def _after_p(value: float) -> str:
    figure = p_figure(value)
    return figure if figure.startswith("<") else f"= {figure}"


def _movement(base: float | None, tuned: float | None) -> str:
    if base is None or tuned is None:
        return "has no value"
    if base == tuned:
        return f"stayed at {number(base)}"
    return f"{'rose' if tuned > base else 'fell'} from {number(base)} to {number(tuned)}"
