"""A plan: what a run takes, what the machine may use, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunelift.core.machine import MemoryLimit
from tunelift.planning.fitting import Change
from tunelift.planning.memory import Part
from tunelift.planning.seconds import Fitted, Stage, fitted, total
from tunelift.wording import plan_text

OVER = 1.03
"""A peak is planned so much above what is expected: too much is a pity, too little ends a run."""

SHORTENED = ("data.max_test", "train.epochs", "train.steps")
"""Keys that are less in a run that is fitted into a time."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take. `bytes` is its peak of resident memory, planned OVER what the parts add up to.

    `limit` is the lowest of what the machine may use, `limits` all of that, and `available` what others leave of it
    now. `stages` are empty where no time was planned. With `steps` epochs are shares of them. `within` (seconds) is the
    time that was asked for.
    """

    model: str
    dtype: str
    parts: Sequence[Part]
    bytes: int
    limits: Sequence[MemoryLimit]
    available: int | None
    largest: Mapping[str, int | None]
    changes: Sequence[Change]
    rehearsed: bool = False
    stages: Sequence[Stage] = ()
    epochs: float = 1.0
    items: int = 0
    seeds: int = 1
    steps: int | None = None
    within: float | None = None
    notes: Sequence[str] = ()

    @property
    def limit(self) -> MemoryLimit | None:
        """Return the lowest limit of resident memory, None where none is known."""
        return self.limits[0] if self.limits else None

    @property
    def fits(self) -> bool:
        """Tell whether the planned peak lies within every limit."""
        return self.limit is None or self.bytes <= self.limit.bytes

    @property
    def seconds(self) -> float | None:
        """Return the planned seconds of the whole run, None where no time was planned."""
        return total(self.stages, self.epochs, self.items) if self.stages else None

    def fitted_into(self, seconds: float) -> Fitted | None:
        """Return the epochs and test items that fit into so many seconds, None where not even the least does."""
        found = fitted(self.stages, seconds, self.epochs, self.items)
        return found if found.fits else None

    @property
    def least(self) -> float:
        """Return the seconds of the shortest run that would be proposed."""
        return fitted(self.stages, 0.0, self.epochs, self.items).seconds

    def keys_of(self, found: Fitted) -> dict[str, Any]:
        """Return what the config is to say for so many epochs and items; nothing where it is as planned."""
        keys: dict[str, Any] = {}
        if found.items < self.items:
            keys["data.max_test"] = found.items
        if found.epochs < self.epochs and self.steps:
            keys["train.steps"] = max(1, int(self.steps * found.epochs))
        elif found.epochs < self.epochs:
            keys["train.epochs"] = found.epochs
        return keys

    def _within(self) -> dict[str, Any] | None:
        if self.within is None:
            return None
        found = self.fitted_into(self.within)
        if found is None:
            return {"asked": self.within, "fits": False, "seconds": round(self.least, 2), "keys": {}}
        return {"asked": self.within, "fits": True, "seconds": round(found.seconds, 2), "keys": self.keys_of(found)}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has it; bytes and seconds are numbers."""
        stages = [
            {"name": s.name, "seconds": round(s.seconds(self.epochs, self.items), 2), "how": s.how} for s in self.stages
        ]
        return {
            "model": self.model,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "fits": self.fits,
            "rehearsed": self.rehearsed,
            "parts": [asdict(part) for part in self.parts],
            "limits": [asdict(limit) for limit in self.limits],
            "available_bytes": self.available,
            "largest": dict(self.largest),
            "changes": [asdict(change) for change in self.changes],
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            "stages": stages,
            "within": self._within(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return plan_text.text(self.to_dict())

    def line(self) -> str:
        """Return the plan in a line."""
        return plan_text.line(self.to_dict())
