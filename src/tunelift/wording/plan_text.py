"""A plan as text, from the plain values of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelift.wording.numbers import aligned

GB, MB = 10**9, 10**6


def size(count: float) -> str:
    """Return `3.42 GB` or `85 MB`."""
    return f"{count / GB:.2f} GB" if count >= GB else f"{count / MB:.0f} MB"


def duration(seconds: float) -> str:
    """Return `45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def text(plan: Mapping[str, Any]) -> str:
    """Return the whole plan: a sentence, the bytes, the seconds, and what to change."""
    blocks = [line(plan), _bytes(plan), _seconds(plan["stages"]), _largest(plan), _changes(plan), _within(plan)]
    return "\n\n".join(block for block in [*blocks, "\n".join(plan["notes"])] if block)


def line(plan: Mapping[str, Any]) -> str:
    """Return what a run takes in a line."""
    found = f"{plan['model']} in {plan['dtype']} takes about {size(plan['bytes'])} of memory"
    if plan["limits"]:
        limit = plan["limits"][0]
        found += f", of {size(limit['bytes'])} ({limit['name']}): it {'fits' if plan['fits'] else 'does not fit'}"
    if plan["seconds"] is not None:
        found += f"; about {duration(plan['seconds'])}"
    free = plan["available_bytes"]
    if free is not None and plan["fits"] and plan["bytes"] > free:
        found += f". Other programs leave {size(free)} now"
    return f"{found}."


def _bytes(plan: Mapping[str, Any]) -> str:
    rows = [("memory", "bytes", "when")]
    rows += [(part["name"].strip(), size(part["bytes"]), part["stage"]) for part in plan["parts"]]
    how = "a rehearsal had it, its parts estimated" if plan["rehearsed"] else "by shapes, activations estimated"
    rows.append(("at most at once", size(plan["bytes"]), how))
    return aligned(rows, "<><")


def _seconds(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return ""
    rows = [("time", "", ""), *((stage["name"], duration(stage["seconds"]), stage["how"]) for stage in stages)]
    return aligned([*rows, ("together", duration(sum(stage["seconds"] for stage in stages)), "")], "<><")


def _largest(plan: Mapping[str, Any]) -> str:
    if not plan["limits"]:
        return ""
    found = [f"{key} {count:,}" if count else f"{key}: none" for key, count in plan["largest"].items()]
    return f"The largest that fits, each alone: {', '.join(found)}." if found else ""


def _changes(plan: Mapping[str, Any]) -> str:
    if not plan["changes"]:
        return ""
    rows = [("to make it fit", "saves", "costs")]
    for change in plan["changes"]:
        keys = " ".join(f"{key}={_plain(value)}" for key, value in change["keys"].items())
        rows.append((keys, size(change["saves"]), change["price"]))
    return aligned(rows, "<><")


def _within(plan: Mapping[str, Any]) -> str:
    within = plan["within"]
    if within is None:
        return ""
    if not within["fits"]:
        return f"It does not fit into {duration(within['asked'])}: the least takes {duration(within['seconds'])}."
    if not within["keys"]:
        return f"It fits into {duration(within['asked'])} as it is."
    keys = " ".join(f"{key}={_plain(value)}" for key, value in within["keys"].items())
    return f"For {duration(within['asked'])}: {keys} (about {duration(within['seconds'])})"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
