"""The seconds of a run, stage by stage, and the settings with which it fits into a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FEWEST = 30
"""Test items below which hardly any difference is shown: fewer are never proposed."""

LEAST = 0.02
"""Of an epoch no less is proposed."""

AIM = 0.9
"""Of the time that is given so much is planned: a quarter more or less is what a plan may be wrong by."""

HALF = 0.5
"""Of the time that training and evaluation share, evaluation has so much where both have to give way."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds that work takes: some for beginning, and some for each unit."""

    fixed: float
    each: float

    @classmethod
    def through(cls, few: tuple[float, float], many: tuple[float, float]) -> Rate:
        """Return the line through two measurements of (work, seconds); where more took no longer, that of many alone.

        A short piece of work is warmed up worse than a long one: nothing is ever taken to begin in less than no time.
        """
        (little, short), (much, long) = few, many
        if much <= little or long <= short:
            return cls(0.0, long / max(much, 1e-9))
        each = (long - short) / (much - little)
        fixed = short - each * little
        return cls(fixed, each) if fixed >= 0 else cls(0.0, long / much)

    def of(self, work: float) -> float:
        """Return the seconds of so much work, none where there is nothing to do."""
        return self.fixed + self.each * work if work > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Seconds of a stage: some in any case, some for each epoch, and some for each test item."""

    name: str
    fixed: float = 0.0
    each_epoch: float = 0.0
    each_item: float = 0.0
    how: str = ""

    def seconds(self, epochs: float, items: int) -> float:
        """Return the seconds of it in a run of so many epochs and test items."""
        return self.fixed + self.each_epoch * epochs + self.each_item * items


def total(stages: Sequence[Stage], epochs: float, items: int) -> float:
    """Return the seconds of all stages."""
    return sum(stage.seconds(epochs, items) for stage in stages)


@dataclass(frozen=True, slots=True)
class Fitted:
    """Epochs and test items that fit into a time, and the seconds that are planned; `fits` is False for the least."""

    epochs: float
    items: int
    seconds: float
    fits: bool


def fitted(stages: Sequence[Stage], seconds: float, epochs: float, items: int) -> Fitted:
    """Return how many of the planned epochs and test items fit into so many seconds.

    Where both have to give way each has half of the time that is left for them; what one does not need the other has.
    """
    whole = Fitted(epochs, items, total(stages, epochs, items), fits=True)
    aim = AIM * seconds
    if whole.seconds <= aim:
        return whole
    few = min(items, FEWEST)
    shortest = min(epochs, LEAST)
    room = aim - total(stages, 0.0, 0)
    by_item, by_epoch = sum(s.each_item for s in stages), sum(s.each_epoch for s in stages)
    tested = int(max(few, min(items, HALF * room / by_item))) if by_item > 0 else items
    learned = max(shortest, min(epochs, (room - tested * by_item) / by_epoch)) if by_epoch > 0 else epochs
    if by_item > 0:
        tested = int(max(few, min(items, (room - learned * by_epoch) / by_item)))
    learned = _rounded_down(learned, shortest)
    found = Fitted(learned, tested, total(stages, learned, tested), fits=True)
    return found if found.seconds <= seconds else replace(found, fits=False)


def _rounded_down(epochs: float, least: float) -> float:
    """Return a number of epochs that people would write: two digits, and no more than it was."""
    if epochs >= 1:
        return int(epochs * 10) / 10
    return max(least, int(epochs * 100) / 100)
