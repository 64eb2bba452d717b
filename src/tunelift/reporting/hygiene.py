"""The state of the data as the page shows it: labels as bars, duplicates with what differs, and what it all cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelift.reporting import wording
from tunelift.reporting.changes import readable
from tunelift.reporting.difference import Difference, difference

MOST_EXAMPLES = 5
ROLES = ("train", "validation", "test")
STAGES = {
    "load": "Loading",
    "base": "Measuring the base",
    "quantising": "Measuring the base in full precision",
    "baselines": "Measuring the baselines",
    "calibration": "Measuring both on validation rows",
    "forgetting": "Measuring what may be forgotten",
    "train": "Training",
    "proofs": "Proofs",
    "tuned": "Measuring the tuned model",
    "seeds": "Training and measuring with further seeds",
    "compare": "Comparing",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A count, its share in words, and how long its bar is in per cent of the longest."""

    count: float
    share: str
    length: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the run, its seconds, and their share of all as a bar."""

    name: str
    bar: Bar


@dataclass(frozen=True, slots=True)
class Pair:
    """A training row and the test row that nearly repeats it, with what differs."""

    similarity: float | None
    difference: Difference


def roles_of(labels: Mapping[str, Any]) -> list[str]:
    """Return the splits that have labels, in their usual order."""
    return [role for role in ROLES if labels.get(role)] + [role for role in labels if role not in ROLES]


def label_bars(labels: Mapping[str, Mapping[str, int]]) -> list[tuple[str, list[Bar]]]:
    """Return each label with one bar for each split, the most frequent label first.

    Bars are shares of their split, so that splits of different sizes can be compared; all begin at zero.
    """
    roles = roles_of(labels)
    totals = {role: sum(labels[role].values()) for role in roles}
    names = sorted({name for role in roles for name in labels[role]})
    names.sort(key=lambda name: -sum(labels[role].get(name, 0) for role in roles))
    most = max((count / totals[role] for role in roles for count in labels[role].values() if totals[role]), default=0.0)
    return [(name, [_bar(labels[role].get(name, 0), totals[role], most) for role in roles]) for name in names]


def duplicate_pairs(near_duplicates: Mapping[str, Any]) -> list[Pair]:
    """Return a few pairs of training and test rows that are nearly the same."""
    examples = (near_duplicates.get("examples") or [])[:MOST_EXAMPLES]
    texts = [(entry.get("similarity"), readable(entry.get("train")), readable(entry.get("test"))) for entry in examples]
    return [Pair(similarity, difference(train, test)) for similarity, train, test in texts]


def stages(seconds: Mapping[str, float | None]) -> list[Stage]:
    """Return what each stage took, in the order of the run; stages that are not known keep their own name."""
    known = {key: value for key, value in seconds.items() if value is not None and key != "total"}
    order = [key for key in STAGES if key in known] + [key for key in known if key not in STAGES]
    whole, most = sum(known.values()), max(known.values(), default=0.0)
    return [Stage(STAGES.get(key, key), _bar(known[key], whole, most / whole if whole else 0.0)) for key in order]


def sentences(data: Mapping[str, Any], verbatim: Mapping[str, Any]) -> list[str]:
    """Return in sentences what was found in the data: cuts, duplicates, conflicts, items known by heart."""
    found = data.get("hygiene") or {}
    rendering, near = data.get("rendering") or {}, found.get("near_duplicates") or {}
    conflicts = (found.get("conflicts") or {}).get("count")
    said = []
    if rendering.get("truncated") is not None:
        cut, dropped = wording.count(rendering["truncated"]), wording.count(rendering.get("dropped") or 0)
        said.append(f"Training rows cut at the longest length: {cut}; dropped: {dropped}.")
    if near:
        removed, within = (wording.count(near.get(key) or 0) for key in ("removed_from_train", "within_train"))
        said.append(f"Training rows that nearly repeat a test or validation item: {removed}, removed from train; ")
        said[-1] += f"another training row: {within}, kept."
    if conflicts:
        said.append(f"Inputs that stand in the data with more than one label: {wording.count(conflicts)}.")
    if verbatim.get("items"):
        known = wording.count(len(verbatim.get("found") or []))
        said.append(f"Of {wording.count(verbatim.get('items'))} test items the base continues {known} word for word.")
    return said


def shortened(text: Any, most: int = 160) -> str:
    """Return a text's first line or so, for examples beside a count."""
    folded = " ".join(readable(text).split())
    return folded if len(folded) <= most else f"{folded[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def used_columns(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> dict[str, str]:
    """Return those columns in which at least one row has something other than zero."""
    return {key: title for key, title in columns.items() if any(row.get(key) for row in rows)}


def _bar(count: float, whole: float, most: float) -> Bar:
    part = count / whole if whole else 0.0
    return Bar(count, wording.share(count, whole), round(100 * part / most, 1) if most else 0.0)
