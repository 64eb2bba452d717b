"""A number that answers depend on besides the model: chosen on validation rows, kept with what was tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunelift.core.records import Example, ScoreRow


@dataclass(frozen=True, slots=True)
class Threshold:
    """How a task chooses its threshold.

    `metrics` are measured on validation rows, and `best` makes the threshold of their scores; None where they do not
    tell. `arises` says whether some examples ask for one. `within` are the least and the largest that one can be.
    `said` and `card` tell it to people, with the number in the place of {}; `neutral` holds where none was chosen, None
    where nothing is said of it then.
    """

    metrics: Sequence[str]
    best: Callable[[Sequence[ScoreRow]], float | None]
    arises: Callable[[Sequence[Example]], bool]
    within: tuple[float, float]
    said: str
    card: str
    neutral: float | None = None
