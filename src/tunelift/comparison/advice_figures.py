"""The figures behind advice: what was measured, and values, differences and intervals of it in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from tunelift.comparison import power
from tunelift.comparison.calibration_error import wilson_interval
from tunelift.comparison.effects import judged
from tunelift.comparison.measured import common_metrics, measure
from tunelift.comparison.pairing import pair, read_side
from tunelift.comparison.results import BASE, MetricResult
from tunelift.core.records import ScoreRow, Scores
from tunelift.metrics import bounds, direction

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Doubts:
    """Training rows whose labels the other rows speak against.

    `rows` are (id, its label, the other label, how likely that is). A classifier that has not seen them says so, which
    has `right` of `of` held-out rows right, of which `most` have the most frequent label.
    """

    rows: Sequence[tuple[str, str, str, float]]
    right: int
    most: int
    of: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured, all on the same rows of validation.

    `scores` are by name: the base and its baselines. `told` says of each row by how much (nats) its own question makes
    its answer likelier than another's question does, both behind examples. `answers` are the training rows' answers,
    `labels` says whether they are labels to choose from. `conflicts` are the "conflicts" of a data report, `doubts`
    what else contradicts.
    """

    metric: str
    scores: Mapping[str, Scores] = field(default_factory=dict)
    told: Sequence[float] | None = None
    answers: Sequence[str] = ()
    labels: bool = False
    test_rows: int = 0
    margin: float | None = None
    conflicts: Mapping[str, Any] | None = None
    doubts: Doubts | None = None


def against(evidence: Evidence, one: str, other: str) -> MetricResult:
    """Compare two of what was measured, item by item."""
    base, tuned = (read_side(evidence.scores[name], name) for name in (one, other))
    return judged(measure(evidence.metric, base, tuned, pair(base, tuned, declared=True)[0]), LEVEL)


def difference(what: str, result: MetricResult) -> str:
    interval = result.effect.interval
    said = "no interval" if interval is None else f"{LEVEL:.0%} interval {interval[0]:+.3f} to {interval[1]:+.3f}"
    values = f"{result.base:.3f} -> {result.tuned:.3f} ({result.effect.difference:+.3f}, {said}; {result.items} items)"
    return f"{what}: {values}"


def value(evidence: Evidence, name: str) -> str:
    value, found = evidence.scores[name].metrics.get(evidence.metric), interval(evidence, name)
    about = (evidence.scores[name].info.get("made_with") or {}).get("baseline") or {}
    what = f"{name} ({about['description']})" if about.get("description") else name
    said = f" ({found[0]:.3f} to {found[1]:.3f})" if found else ""
    return f"{what}: {evidence.metric} {value:.3f}{said}" if value is not None else f"{what}: no {evidence.metric}"


def interval(evidence: Evidence, name: str) -> tuple[float, float] | None:
    """Return the interval of a mean of items with values between 0 and 1; None of any other metric."""
    values = [metric(row, evidence.metric) for row in evidence.scores[name].rows]
    known = [value for value in values if value is not None]
    if not known or (bounds(evidence.metric) != (0.0, 1.0) and not set(known) <= {0, 1}):
        return None
    if set(known) <= {0, 1}:
        return share(int(sum(known)), len(known))
    if len(known) < 2:
        return None
    low, _, high = mean(known)
    return max(low, 0.0), min(high, 1.0)


def low(evidence: Evidence, name: str) -> float:
    """Return the lower end of what is shown, of a metric of which more is better; -inf where none is."""
    found = interval(evidence, name) if direction(evidence.metric) is True else None
    return found[0] if found else -math.inf


def is_binary(evidence: Evidence) -> bool:
    values = [metric(row, evidence.metric) for scores in evidence.scores.values() for row in scores.rows]
    known = {value for value in values if value is not None}
    return bool(known) and known <= {0, 1}


def spread(evidence: Evidence) -> float | None:
    """Return the standard deviation, over items, of the difference between two sides; the largest that was seen."""
    found = []
    for name in evidence.scores:
        if name == BASE or BASE not in evidence.scores:
            continue
        base, tuned = (read_side(evidence.scores[one], one) for one in (BASE, name))
        pairs, _ = pair(base, tuned, declared=True)
        if evidence.metric not in common_metrics(base, tuned, pairs)[0]:
            continue
        values = [[metric(row, evidence.metric) for row in (one.base, one.tuned)] for one in pairs]
        apart = [b - a for a, b in values if a is not None and b is not None]
        found += [float(np.std(apart, ddof=1))] if len(apart) > 1 else []
    return max(found, default=None)


def needed(effect: float) -> int:
    """Return how many test rows show an effect with 80% power, about, where a fifth of the answers change."""
    rows = 25
    while rows < 2**20:
        smallest = power.smallest_difference(rows, power.DISCORDANCES[1])
        if smallest is not None and smallest <= effect:
            return rows
        rows = math.ceil(rows * 1.25)
    return rows


def mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the interval's ends around the mean, by t."""
    some = np.asarray(values, dtype=float)
    half = float(special.stdtrit(len(some) - 1, (1 + LEVEL) / 2) * some.std(ddof=1) / math.sqrt(len(some)))
    mean = float(some.mean())
    return mean - half, mean, mean + half


def share(count: int, of: int) -> tuple[float, float]:
    low, high = wilson_interval(np.array([count / of]), np.array([of]), LEVEL)
    return float(low[0]), float(high[0])


def metric(row: ScoreRow, name: str) -> float | None:
    value = (row.get("metrics") or {}).get(name)
    return None if value is None else float(value)
