"""What a finalist costs, and which of them nobody beats in everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tunelift.comparison.leaderboard import Leaderboard
from tunelift.comparison.pareto import Beats, front
from tunelift.core import files
from tunelift.run_files.layout import RunPaths

NOISE = 0.1
"""Seconds and bytes of memory that differ by less than this share of the larger are not told apart."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of training, the largest memory of it and the size of what it made (bytes), numbers trained, forgetting.

    `forgetting` is the change of the first set that tuning should not change, as `forgotten` names it, with its
    interval; None where nothing was measured. Seconds and memory are those of the machine that it was trained on, and
    of what ran beside it.
    """

    seconds: float | None
    peak_bytes: int | None
    size_bytes: int
    trainable: int | None
    forgotten: str | None = None
    forgetting: float | None = None
    forgetting_interval: tuple[float, float] | None = None
    less_is_forgotten: bool = True

    @classmethod
    def of(cls, run: RunPaths) -> Costs:
        """Read them from a complete run."""
        manifest, comparison = files.read_manifest(run.manifest), files.read_object(run.comparison)
        train, adapter = manifest.get("train") or {}, manifest.get("adapter") or {}
        size = sum(file.stat().st_size for file in run.made.glob("*.safetensors"))
        seconds = manifest.get("seconds", {}).get("train")
        known = comparison.get("forgetting") or {}
        name = next(iter(known), None)
        entry = known.get(name) or {} if name else {}
        interval = entry.get("interval")
        return cls(
            seconds, train.get("peak_bytes"), size, adapter.get("trainable"), name, entry.get("difference"),
            (interval[0], interval[1]) if interval else None, entry.get("higher_is_better") is not True,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def not_beaten(ranks: Leaderboard, costs: Mapping[str, Costs]) -> list[str]:
    """Return the Pareto front: those that no other beats in quality or a cost without being beaten in another.

    In quality one beats another where that is shown; in time and memory by a tenth; in size by a byte; in forgetting
    where the intervals lie apart.
    """
    better = {(duel.better, other) for duel in ranks.duels for other in (duel.one, duel.other) if duel.better}
    things: list[Beats] = [
        lambda one, other: (one, other) in better and one != other,
        partial(_less, {name: cost.seconds for name, cost in costs.items()}, NOISE),
        partial(_less, {name: cost.peak_bytes for name, cost in costs.items()}, NOISE),
        partial(_less, {name: cost.size_bytes for name, cost in costs.items()}, 0.0),
        partial(_forgets_less, costs),
    ]
    return front([one.name for one in ranks.candidates], things)


def _less(values: Mapping[str, float | None], noise: float, one: str, other: str) -> bool:
    mine, theirs = values[one], values[other]
    return mine is not None and theirs is not None and mine < theirs * (1 - noise)


def _forgets_less(costs: Mapping[str, Costs], one: str, other: str) -> bool:
    mine, theirs = costs[one], costs[other]
    if mine.forgetting_interval is None or theirs.forgetting_interval is None:
        return False
    if mine.less_is_forgotten:
        return mine.forgetting_interval[1] < theirs.forgetting_interval[0]
    return mine.forgetting_interval[0] > theirs.forgetting_interval[1]
